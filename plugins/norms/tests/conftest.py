"""What the tests share: one thread, the core's components and this package's, ragged frames."""

import os
from collections.abc import Callable, Iterator

# before torch is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from speechkit.nn import Chunk
from speechkit.plugins import registry

torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def only_norms() -> Iterator[None]:
    """The process's registry is of the core and this package, and as it was before afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPEECHKIT_PLUGINS", "norms")
        registry.cache_clear()
        yield
    registry.cache_clear()


@pytest.fixture
def ragged() -> Callable[..., Chunk]:
    """`ragged(channels)`: three rows of 20, 11 and 5 frames, with NaN behind them."""

    def make(channels: int = 8, dtype: torch.dtype = torch.float64, seed: int = 0) -> Chunk:
        chance = torch.Generator().manual_seed(seed)
        x = torch.randn(3, 20, channels, generator=chance, dtype=torch.float64) * 2 + 1
        c = Chunk.of(x.to(dtype).transpose(1, 2), torch.tensor([20, 11, 5]))
        return Chunk(c.x.masked_fill(~c.valid[:, None], torch.nan), c.valid)

    return make
