"""What the tests share: ragged frames."""

from collections.abc import Callable

import pytest
import torch

from speechkit.nn import Chunk


@pytest.fixture
def ragged() -> Callable[..., Chunk]:
    """`ragged(channels)`: three rows of 20, 11 and 5 frames, with NaN behind them."""

    def make(channels: int = 8, dtype: torch.dtype = torch.float64, seed: int = 0) -> Chunk:
        chance = torch.Generator().manual_seed(seed)
        x = torch.randn(3, 20, channels, generator=chance, dtype=torch.float64) * 2 + 1
        c = Chunk.of(x.to(dtype).transpose(1, 2), torch.tensor([20, 11, 5]))
        return Chunk(c.x.masked_fill(~c.valid[:, None], torch.nan), c.valid)

    return make
