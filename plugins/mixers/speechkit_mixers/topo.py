"""Topological subdivisioning: a 1×1 layer in which near channels of a grid are connected."""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from speechkit import ops
from speechkit.errors import ComponentError
from speechkit.nn import Chunk, Pointwise, StreamLayer
from speechkit.ops.explain import Choice
from speechkit.ops.linear import implementation

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value


class Topo(StreamLayer):
    """y[a] = Σ_n w[a, n] x[s(a) + n] at every frame; a and n are places in a grid of channels.

    `grid_in` and `grid_out` arrange the input and output channels, the last coordinate first to
    change. Output place a reads the places of `window` from s(a) on, cyclically, with s_j(a) =
    ⌊a_j d_j / D_j⌋ for d_j input and D_j output places. So it has C' · Π window weights, and is
    computed as a product with a matrix with zeros. Shape: x `[B, C, T]`, weight `[C', Π window]`,
    y `[B, C', T]`. Wang, Liu & Foroosh, arXiv:1608.04337; two different grids are our choice.
    """

    index: Tensor
    self_initialized = ("weight",)

    def __init__(
        self, grid_in: tuple[int, ...], grid_out: tuple[int, ...], window: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.c_in, self.window = math.prod(grid_in), window
        index = torch.zeros(math.prod(grid_out), 1, dtype=torch.long)
        places = torch.tensor(list(product(*map(range, grid_out))))
        for place, d, d_out, size in zip(places.t(), grid_in, grid_out, window, strict=True):
            along = (place * d // d_out)[:, None] + torch.arange(size)
            index = (index[:, :, None] * d + (along % d)[:, None]).flatten(1)
        self.register_buffer("index", index, persistent=False)
        self.weight = nn.Parameter(torch.empty(index.shape))
        # Glorot's bound with the connections that there are
        fan_in, fan_out = index.shape[1], index.numel() / self.c_in
        bound = math.sqrt(6 / (fan_in + fan_out))
        nn.init.uniform_(self.weight, -bound, bound)

    def channels_out(self, c_in: int) -> int:
        return len(self.weight)

    def implementation(self) -> Choice:
        """The implementation of its product."""
        return implementation(self.weight)

    def dense(self) -> Tensor:
        """Its weights as a matrix `[C', C]` with zeros."""
        zeros = self.weight.new_zeros(len(self.weight), self.c_in)
        return zeros.scatter(1, self.index, self.weight)

    def forward(self, c: Chunk) -> Chunk:
        return Chunk(ops.linear(c.x.transpose(1, 2), self.dense()).transpose(1, 2), c.valid)

    def matrix(self) -> tuple[Tensor, None, int]:
        """Its matrix `[C', C]`, no bias, and its stride."""
        return self.dense(), None, 1

    def lower(self, program: Lowering, x: Value) -> Value:
        return program.matrix(x, self.dense())

    def macs(self, frames: int) -> int:
        return self.weight.numel() * frames

    def scale_outputs(self, scale: Tensor) -> None:
        """Multiplies the weights so that the output is multiplied by `scale [C']`."""
        self.weight.mul_(scale[:, None])

    @torch.no_grad()
    def exportable(self) -> nn.Module:
        simpler = Pointwise(self.c_in, len(self.weight)).to(self.weight).requires_grad_(False)
        simpler.weight.copy_(self.dense())
        return simpler

    def extra_repr(self) -> str:
        window = "×".join(map(str, self.window))
        return f"{self.c_in}→{len(self.weight)}, window={window}"


def topo(c_in: int, c_out: int, dims: int = 2, share: float = 0.5) -> Topo:
    """`dims` sides of the grid, as equal as the channels allow; a window has `share` of each side.

    So an output channel reads about share^dims of the input channels.
    """
    if dims < 1 or not 0 < share <= 1:
        raise ComponentError(
            f"channel topo: dims={dims}, share={share}; give dims from 1 up and a share from 0 to 1"
        )
    grid = sides(c_in, dims)
    return Topo(grid, sides(c_out, dims), tuple(math.ceil(share * side) for side in grid))


def sides(channels: int, dims: int) -> tuple[int, ...]:
    """The sides of a grid of that many channels, smallest first."""
    if dims == 1:
        return (channels,)
    side = max(d for d in range(1, channels + 1) if channels % d == 0 and d**dims <= channels)
    return (side, *sides(channels // side, dims - 1))
