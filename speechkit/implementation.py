"""The implementation that a user asks for: by `use_impl`, or by the variable SPEECHKIT_IMPL."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

AUTO = "auto"
PLANS = (AUTO, "cpu")
"""The implementations with which the C++ engine of plans computes sessions and recordings."""
FROM_ENVIRONMENT = os.environ.get("SPEECHKIT_IMPL", AUTO)
_asked: ContextVar[str | None] = ContextVar("impl", default=None)


@contextmanager
def use_impl(name: str) -> Iterator[None]:
    """Within the block, ops run their implementation `name`, or raise ConfigError."""
    token = _asked.set(name)
    try:
        yield
    finally:
        _asked.reset(token)


def asked(impl: str | None = None) -> str:
    """The requested name: `impl`, else that of `use_impl`, else SPEECHKIT_IMPL, else "auto"."""
    return impl or _asked.get() or FROM_ENVIRONMENT
