"""What the tests share: parts of a block and frames."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from speechkit.nn import Add, BatchNorm, BodyMaker, DepthwiseConv, FrameWise, Pointwise


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
