"""What the packages' tests share: one thread, the core's components with the package's, nets of
each family, parts of a block, and frames.
"""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

# before torch is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from torch import Tensor, nn

import speechkit as sk
from speechkit.models import Net
from speechkit.nn import Add, BatchNorm, BodyMaker, DepthwiseConv, FrameWise, Pointwise
from speechkit.plugins import Registry, using

torch.set_num_threads(1)

HERE = Path(__file__).parent
LOADED = {
    "methods": "methods,activations",
    "mixers": "mixers,norms",
    "residuals": "residuals,norms,activations",
}
"""The plugins for the tests of a package that needs others too."""

FAMILIES: dict[str, Callable[..., Net]] = {
    "quartznet": partial(sk.QuartzNet, size="5x5"),
    "matchboxnet": partial(sk.MatchboxNet, labels=("a", "b"), size="3x1x64"),
    "marblenet": partial(sk.MarbleNet, size="3x2x64"),
}


def package_of(path: Path) -> str:
    """The package whose test this is."""
    return path.relative_to(HERE).parts[0]


@pytest.fixture(autouse=True, scope="module")
def only_the_package(request: pytest.FixtureRequest) -> Iterator[None]:
    """The process's registry has the core and the package, and is as it was before afterwards."""
    package = package_of(request.path)
    with pytest.MonkeyPatch.context() as patch:
        # for processes that tests start
        patch.setenv("SPEECHKIT_PLUGINS", LOADED.get(package, package))
        with using(Registry()):
            yield


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Callable[..., Net]:
    """`family(block="rglru", ...)`: the config of a net of each family in turn."""
    return FAMILIES[request.param]


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
