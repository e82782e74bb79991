"""Hierarchical residuals, arXiv:2502.16003."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from speechkit.errors import ComponentError
from speechkit.nn import BatchNorm, Chunk, Pointwise, Serial, StreamLayer, fuse
from speechkit_residuals.linked import Linked
from speechkit_residuals.parts import chosen, widths

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value


class HierarchicalStack(Linked):
    """h_l = block_l(h_{l−1}) + Σ_{k<l−1} P_kl h_k: each block reads all earlier outputs.

    P_kl is C_k → C_l / rank_div → C_l and a batch norm that starts at 0, so the stack starts as the
    plain one. `side="input"` adds to the block's input instead. An output that passes a stride is
    averaged over it. The sum comes after the block's activation, since a block cannot be opened.
    """

    keeps_input = False

    def __init__(self, blocks: list[StreamLayer], rank_div: int, side: str) -> None:
        super().__init__(blocks)
        chosen("stack hires", "side", side, ("output", "input"))
        if rank_div < 1:
            raise ComponentError(f"stack hires: rank_div={rank_div}; give at least 1")
        self.side = side
        channels = widths("hires", blocks)
        self.links = nn.ModuleDict()
        for index in range(2, len(blocks)):
            target = channels[index if side == "output" else index - 1]
            for level in range(index - 1):
                link = _link(channels[level], target, rank_div)
                self.links[f"{level}_to_{index}"] = link

    def into(self, index: int, history: list[Chunk]) -> Tensor:
        x = history[-1]
        return self._linked(index, x, history) if self.side == "input" and index > 1 else x.x

    def out_of(self, index: int, y: Chunk, history: list[Chunk]) -> Tensor:
        return self._linked(index, y, history) if self.side == "output" and index > 1 else y.x

    def _linked(self, index: int, y: Chunk, history: list[Chunk]) -> Tensor:
        total = y.x
        for level in range(index - 1):
            total = total + self.links[f"{level}_to_{index}"](history[level]).x
        return total

    def lower_into(self, program: Lowering, index: int, history: list[Value]) -> Value:
        return self._lower_linked(program, "input", index, history[-1], history)

    def lower_out_of(self, program: Lowering, index: int, y: Value, history: list[Value]) -> Value:
        return self._lower_linked(program, "output", index, y, history)

    def _lower_linked(
        self, program: Lowering, side: str, index: int, y: Value, history: list[Value]
    ) -> Value:
        for level in range(index - 1 if side == self.side else 0):
            link = self.links[f"{level}_to_{index}"]
            assert isinstance(link, StreamLayer)
            y = program.added(program.add(fuse(link), history[level]), y)
        return y


def _link(c_in: int, c_out: int, rank_div: int) -> Serial:
    rank = max(1, c_out // rank_div)
    norm = BatchNorm(c_out)
    nn.init.zeros_(norm.weight)
    return Serial(down=Pointwise(c_in, rank), up=Pointwise(rank, c_out), norm=norm)


def hires(blocks: list[StreamLayer], rank_div: int = 8, side: str = "output") -> HierarchicalStack:
    return HierarchicalStack(blocks, rank_div, side)
