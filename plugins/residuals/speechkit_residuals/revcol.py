"""Reversible columns, Cai et al., arXiv:2212.11696."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from speechkit.errors import ComponentError
from speechkit.nn import FrameWise, Serial, StreamLayer
from speechkit_residuals.parts import cat_channels, same_width, widths
from speechkit_residuals.reversible import Reversible, ReversibleSequence

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value


class Level(Reversible):
    """c_j ← α c_j + block(c_{j−1} + U c_{j+1}) within the maps (x, c_0, …, c_{L−1}), c_{−1} = x.

    c_{j−1} is from this column and c_{j+1} from the previous one; the last level has no c_{j+1}. α
    is learned for each channel. It starts at 0.5, and |α| is at least `alpha_min`. The first
    column reads maps of zeros, so it has no α and no U. Shape: `[B, (L + 1) · C, T]` → the same.
    """

    undecayed = ("alpha",)

    def __init__(
        self,
        block: StreamLayer,
        channels: int,
        level: int,
        levels: int,
        first: bool,
        alpha_min: float,
    ) -> None:
        fuses = not first and level < levels - 1
        fuse = FrameWise(Fuse(channels), channels)
        super().__init__(Serial(fuse=fuse, block=block) if fuses else Serial(block=block))
        self.channels, self.level, self.alpha_min = channels, level, alpha_min
        self.reads = 2 if fuses else 1
        self.alpha = None if first else nn.Parameter(torch.full((channels, 1), 0.5))

    def read(self, x: Tensor) -> Tensor:
        below, above = self._map(x, self.level), self._map(x, self.level + 2)
        return cat_channels([below, above]) if self.reads == 2 else below

    def read_back(self, y: Tensor) -> Tensor:
        return self.read(y)

    def add(self, x: Tensor, made: Tensor) -> Tensor:
        own = self._map(x, self.level + 1)
        return self._with(x, (own if self.alpha is None else self._bounded() * own) + made)

    def undo(self, y: Tensor, made: Tensor) -> Tensor:
        own = self._map(y, self.level + 1) - made
        return self._with(y, own if self.alpha is None else own / self._bounded())

    def body_width(self, c_in: int) -> int:
        return self.reads * self.channels

    def lower_read(self, program: Lowering, x: Value) -> Value:
        below = self._lower_map(program, x, self.level)
        if self.reads == 1:
            return below
        return program.join(below, self._lower_map(program, x, self.level + 2))

    def lower_add(self, program: Lowering, x: Value, made: Value) -> Value:
        own = self._lower_map(program, x, self.level + 1)
        own = own if self.alpha is None else program.scaled(own, self._bounded())
        start, end = (self.level + 1) * self.channels, (self.level + 2) * self.channels
        made = program.join(program.part(x, 0, start), program.added(own, made))
        rest = x.channels - end
        return program.join(made, program.part(x, end, rest)) if rest else made

    def _lower_map(self, program: Lowering, x: Value, place: int) -> Value:
        return program.part(x, place * self.channels, self.channels)

    def _map(self, x: Tensor, place: int) -> Tensor:
        return x[:, place * self.channels : (place + 1) * self.channels]

    def _with(self, x: Tensor, own: Tensor) -> Tensor:
        start = (self.level + 1) * self.channels
        return cat_channels([x[:, :start], own, x[:, start + self.channels :]])

    def _bounded(self) -> Tensor:
        assert self.alpha is not None
        far = self.alpha.abs().clamp(min=self.alpha_min)
        return torch.where(self.alpha < 0, -far, far)


class Fuse(nn.Module):
    """y = below + U above. Shape: both `[B, C, T]` in one tensor, U `[C, C]`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.up = nn.Linear(channels, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        below, above = x.chunk(2, 1)
        y: Tensor = below + self.up(above.transpose(1, 2)).transpose(1, 2)
        return y

    def lower(self, program: Lowering, x: Value) -> Value:
        """The same as one product of a native program, with the matrix [I, U]."""
        eye = torch.eye(len(self.up.weight))
        return program.matrix(x, torch.cat([eye, self.up.weight], dim=1))


class Spread(nn.Module):
    """x, concatenated with `levels` maps of zeros."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x: Tensor) -> Tensor:
        return cat_channels([x, *([torch.zeros_like(x)] * self.levels)])

    def lower(self, program: Lowering, x: Value) -> Value:
        """The same as one instruction of a native program."""
        return program.part(x, 0, (self.levels + 1) * x.channels)


class Top(nn.Module):
    """The last map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return x[:, -self.channels :]

    def lower(self, program: Lowering, x: Value) -> Value:
        """The same as one instruction of a native program."""
        return program.part(x, x.channels - self.channels, self.channels)


def revcol(blocks: list[StreamLayer], levels: int = 2, alpha_min: float = 1e-3) -> StreamLayer:
    """Each run of residual blocks of one width as columns of `levels` blocks, in series.

    Training stores the maps of one column, for any number of columns. Three kinds of block stay in
    series: those beyond a multiple of `levels`, the first, and those that change the width.
    """
    if levels < 1 or not 0 < alpha_min < 0.5:
        raise ComponentError(
            f"stack revcol: levels={levels}, alpha_min={alpha_min}; give levels from 1, alpha_min "
            "between 0 and 0.5"
        )
    row: list[StreamLayer] = []
    for group in same_width("revcol", blocks):
        count = len(group) // levels * levels if len(group) > 1 else 0
        if count:
            row.append(_columns(group[:count], levels, alpha_min))
        row += group[count:]
    return Serial(*row)


def _columns(blocks: list[StreamLayer], levels: int, alpha_min: float) -> Serial:
    channels = widths("revcol", blocks)[0]
    made = [
        Level(block, channels, index % levels, levels, index < levels, alpha_min)
        for index, block in enumerate(blocks)
    ]
    return Serial(
        spread=FrameWise(Spread(levels), (levels + 1) * channels),
        columns=ReversibleSequence(*made),
        top=FrameWise(Top(channels), channels),
    )
