"""What the tests share: one thread, and how events are compared."""

import os
from typing import Any

# before torch is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from speechkit.events import Event, to_row


def near(value: Any) -> Any:
    """Something equal to `value` up to the rounding of float32."""
    if isinstance(value, dict):
        return {key: near(item) for key, item in value.items()}
    if isinstance(value, list):
        return [near(item) for item in value]
    return pytest.approx(value, abs=2e-5) if isinstance(value, float) else value


@pytest.fixture(scope="session")
def assert_heard() -> Any:
    """`assert_heard(events, rows)`: the runtime's rows are the session's events."""

    def check(events: list[Event], rows: list[dict[str, Any]]) -> None:
        assert rows == [near(to_row(event)) for event in events]

    return check
