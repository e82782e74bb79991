"""What the tests share: one thread, and the core's components with this package's."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

# before torch is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from torch import Tensor, nn

from speechkit.nn import Add, BatchNorm, BodyMaker, DepthwiseConv, FrameWise, Pointwise
from speechkit.plugins import registry

torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Exports take seconds each."""
    for item in items:
        if Path(__file__).parent in item.path.parents and "check_export_equals" in item.name:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True, scope="module")
def only_residuals() -> Iterator[None]:
    """The process's registry is of the core, this package and norms and activations beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPEECHKIT_PLUGINS", "residuals,norms,activations")
        registry.cache_clear()
        yield
    registry.cache_clear()


@pytest.fixture
def maker() -> Callable[..., BodyMaker]:
    """`maker(repeat=1, ...)`: the parts of a small QuartzNet block, plain ones by default."""

    def make(**fields: object) -> BodyMaker:
        parts: dict[str, object] = {
            "kernel": 3,
            "lookahead": 1,
            "mixer": DepthwiseConv,
            "channel": Pointwise,
            "norm": BatchNorm,
            "activation": lambda channels: FrameWise(nn.ReLU()),
            "merge": lambda channels, index, depth: Add(),
        }
        return BodyMaker(**{**parts, **fields})  # type: ignore[arg-type]

    return make


@pytest.fixture
def frames() -> Callable[..., Tensor]:
    """`frames(channels)`: two rows of 12 normal frames, channels-last, in float64."""

    def make(channels: int = 8, count: int = 12, seed: int = 0) -> Tensor:
        chance = torch.Generator().manual_seed(seed)
        x = torch.randn(2, count, channels, generator=chance, dtype=torch.float64)
        return x.transpose(1, 2)

    return make
