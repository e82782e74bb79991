"""Learned augmented residual layers, Menghani, Kumar & Kumar, arXiv:2411.07501."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from speechkit.errors import ComponentError
from speechkit.nn import Chunk, StreamLayer
from speechkit_residuals.linked import Linked
from speechkit_residuals.parts import chosen, widths

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value

VARIANTS = "rw", "lr", "rw+lr"
BOUNDS = "softmax", "sigmoid", "none"


class Laurel(nn.Module):
    """y = α body + β (shortcut + B A shortcut); `variant` leaves out α and β, or A and B.

    `bound` keeps α and β in (0, 2) as 2 · softmax or 2 · sigmoid of the parameters; both start at
    1. "none" learns them directly. B starts at 0, so every variant starts as the plain sum. It adds
    2 parameters ("rw"; 2C with `vector`), 2 · rank · C ("lr"), or both. Shape: `[B, C, T]` twice →
    `[B, C, T]`; A `[rank, C]`, B `[C, rank]`.
    """

    undecayed = ("weights",)

    def __init__(self, channels: int, variant: str, rank: int, bound: str, vector: bool) -> None:
        super().__init__()
        chosen("residual laurel", "variant", variant, VARIANTS)
        chosen("residual laurel", "bound", bound, BOUNDS)
        self.bound = bound
        size = channels if vector else 1
        self.weights = None
        if "rw" in variant:
            self.weights = nn.Parameter(torch.full((2, size, 1), 1.0 if bound == "none" else 0.0))
        self.low_rank = LowRank(channels, rank) if "lr" in variant else None

    def forward(self, shortcut: Tensor, body: Tensor) -> Tensor:
        if self.low_rank is not None:
            shortcut = shortcut + self.low_rank(shortcut)
        if self.weights is None:
            return shortcut + body
        alpha, beta = self.bounded(self.weights)
        y: Tensor = alpha * body + beta * shortcut
        return y

    def lower(self, program: Lowering, shortcut: Value, body: Value) -> Value:
        """The same in a native program."""
        if self.low_rank is not None:
            shortcut = program.added(self.low_rank.lower(program, shortcut), shortcut)
        if self.weights is None:
            return program.added(shortcut, body)
        alpha, beta = self.bounded(self.weights)
        return program.added(program.scaled(body, alpha), program.scaled(shortcut, beta))

    def bounded(self, weights: Tensor) -> Tensor:
        """α and β, `[2, C or 1, 1]`."""
        if self.bound == "softmax":
            return 2 * weights.softmax(0)
        return 2 * weights.sigmoid() if self.bound == "sigmoid" else weights


class LowRank(nn.Module):
    """y = B A x at every frame; B starts at 0. Shape: `[B, C, T]` → the same."""

    def __init__(self, channels: int, rank: int) -> None:
        super().__init__()
        if rank < 1:
            raise ComponentError(f"laurel: rank={rank}; give at least 1")
        self.a = nn.Parameter(torch.empty(rank, channels))
        self.b = nn.Parameter(torch.zeros(channels, rank))
        nn.init.xavier_uniform_(self.a)

    def forward(self, x: Tensor) -> Tensor:
        return (x.transpose(1, 2) @ self.a.t() @ self.b.t()).transpose(1, 2)

    def lower(self, program: Lowering, x: Value) -> Value:
        """The same as two products of a native program."""
        return program.matrix(program.matrix(x, self.a), self.b)

    def macs(self, frames: int) -> int:
        """Multiply-accumulates: two products for each frame."""
        return (self.a.numel() + self.b.numel()) * frames


class LaurelStack(Linked):
    """h_i = block_i(x_i) + B_i A_i Σ_{j<k} γ_ij x_{i−j}; x_i is the output of the previous block.

    The sum is over the previous activations with the block's number of channels. γ starts at 1 and
    B at 0, so the stack starts as the plain one. A block with all k of them has 2 · rank · C + k
    more parameters. Rank 0 leaves A and B out, and γ starts at 0. If not `shared`, each of the k
    has its own A and B.
    """

    keeps_input = False
    undecayed = ("gammas",)

    def __init__(self, blocks: list[StreamLayer], k: int, rank: int, shared: bool = True) -> None:
        super().__init__(blocks)
        if k < 1 or rank < 0:
            raise ComponentError(f"stack laurel: k={k}, rank={rank}; give k from 1, rank from 0")
        channels = widths("laurel", blocks)
        earlier = [_equal(channels[:index], width, k) for index, width in enumerate(channels)]
        self.earlier = {str(index): places for index, places in enumerate(earlier) if places}
        self.gammas = nn.ParameterDict(
            {
                key: torch.full((len(places),), float(rank > 0))
                for key, places in self.earlier.items()
            }
        )
        self.low_rank = nn.ModuleDict(
            {
                key: nn.ModuleList(
                    LowRank(channels[int(key)], rank) for _ in (places[:1] if shared else places)
                )
                for key, places in self.earlier.items()
                if rank
            }
        )

    def out_of(self, index: int, y: Chunk, history: list[Chunk]) -> Tensor:
        key = str(index)
        if key not in self.earlier:
            return y.x
        weights = zip(self.gammas[key].unbind(), self.earlier[key], strict=True)
        terms = [gamma * history[place].x for gamma, place in weights]
        maps = list(self.low_rank[key].children()) if key in self.low_rank else []
        if len(maps) == 1:
            terms = [maps[0](sum(terms))]
        elif maps:
            terms = [low_rank(term) for low_rank, term in zip(maps, terms, strict=True)]
        return y.x + cast(Tensor, sum(terms))

    def lower_out_of(self, program: Lowering, index: int, y: Value, history: list[Value]) -> Value:
        key = str(index)
        if key not in self.earlier:
            return y
        weights = zip(self.gammas[key].unbind(), self.earlier[key], strict=True)
        terms = [program.scaled(history[place], gamma) for gamma, place in weights]
        maps = list(self.low_rank[key].children()) if key in self.low_rank else []
        if len(maps) == 1:
            terms = [program.add(maps[0], reduce(program.added, terms))]
        elif maps:
            terms = [program.add(each, term) for each, term in zip(maps, terms, strict=True)]
        return reduce(program.added, terms, y)


def _equal(before: Sequence[int], width: int, k: int) -> list[int]:
    """Indices of the last k outputs before a block that have its width, the latest first."""
    places = range(len(before) - 1, max(-1, len(before) - 1 - k), -1)
    return [place for place in places if before[place] == width]


def laurel(
    channels: int,
    index: int,
    depth: int,
    variant: str = "rw+lr",
    rank: int = 16,
    bound: str = "softmax",
    vector: bool = False,
) -> Laurel:
    return Laurel(channels, variant, rank, bound, vector)


def laurel_stack(
    blocks: list[StreamLayer], k: int = 3, rank: int = 16, shared: bool = True
) -> LaurelStack:
    return LaurelStack(blocks, k, rank, shared)
