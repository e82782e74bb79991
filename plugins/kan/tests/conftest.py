"""What the package's tests share: one thread, the core's components and this package's."""

import os
from collections.abc import Iterator
from pathlib import Path

# before torch is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from speechkit.plugins import registry

torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Exports take seconds each."""
    for item in items:
        if Path(__file__).parent in item.path.parents and "check_export_equals" in item.name:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True, scope="module")
def only_kan() -> Iterator[None]:
    """The process's registry is of the core and this package, and as it was before afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPEECHKIT_PLUGINS", "kan")
        registry.cache_clear()
        yield
    registry.cache_clear()
