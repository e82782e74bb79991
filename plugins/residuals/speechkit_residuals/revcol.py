"""Reversible columns, Cai et al., arXiv:2212.11696."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, groupby, pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from speechkit.errors import ComponentError
from speechkit.nn import FrameWise, Serial, StreamLayer
from speechkit_residuals.parts import cat_channels, has_residual, widths
from speechkit_residuals.reversible import Reversible, ReversibleSequence

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value


class Level(Reversible):
    """c_j ← α c_j + F(D c_{j−1} + U c_{j+1}) within the maps (x, c_0, …, c_{L−1}), c_{−1} = x.

    c_{j−1} is from this column and c_{j+1} from the previous one; the last level has no c_{j+1}. α
    is learned for each channel. It starts at 0.5, and |α| is at least `alpha_min`. The first
    column reads maps of zeros, so it has no α and no U. `maps` are the channels of x and of each
    level, and F reads `width` channels. Shape: `[B, Σ maps, T]` → the same.
    """

    undecayed = ("alpha",)

    def __init__(
        self,
        body: StreamLayer,
        width: int,
        maps: Sequence[int],
        level: int,
        first: bool,
        alpha_min: float,
        norm: bool,
    ) -> None:
        below, own = maps[level : level + 2]
        above = 0 if first or level == len(maps) - 2 else maps[level + 2]
        fuse = Fuse(below, above, width, norm)
        fuses = above or below != width
        super().__init__(Serial(fuse=FrameWise(fuse, width), body=body) if fuses else body)
        self.alpha_min, self.reads = alpha_min, below + above
        ends = [0, *accumulate(maps)]
        self.below, self.own = (ends[level], below), (ends[level + 1], own)
        self.above = (ends[level + 1] + own, above)
        self.alpha = None if first else nn.Parameter(torch.full((own, 1), 0.5))

    def read(self, x: Tensor) -> Tensor:
        below = _part(x, *self.below)
        return cat_channels([below, _part(x, *self.above)]) if self.above[1] else below

    def read_back(self, y: Tensor) -> Tensor:
        return self.read(y)

    def add(self, x: Tensor, made: Tensor) -> Tensor:
        own = _part(x, *self.own)
        return self._with(x, (own if self.alpha is None else self._bounded() * own) + made)

    def undo(self, y: Tensor, made: Tensor) -> Tensor:
        own = _part(y, *self.own) - made
        return self._with(y, own if self.alpha is None else own / self._bounded())

    def body_width(self, c_in: int) -> int:
        return self.reads

    def lower_read(self, program: Lowering, x: Value) -> Value:
        below = program.part(x, *self.below)
        return program.join(below, program.part(x, *self.above)) if self.above[1] else below

    def lower_add(self, program: Lowering, x: Value, made: Value) -> Value:
        start, channels = self.own
        own = program.part(x, start, channels)
        own = own if self.alpha is None else program.scaled(own, self._bounded())
        made = program.join(program.part(x, 0, start), program.added(own, made))
        end = start + channels
        return (
            program.join(made, program.part(x, end, x.channels - end)) if x.channels > end else made
        )

    def _with(self, x: Tensor, own: Tensor) -> Tensor:
        start, channels = self.own
        return cat_channels([x[:, :start], own, x[:, start + channels :]])

    def _bounded(self) -> Tensor:
        assert self.alpha is not None
        far = self.alpha.abs().clamp(min=self.alpha_min)
        return torch.where(self.alpha < 0, -far, far)


class Fuse(nn.Module):
    """y = LN(D below) + LN(U above), or below as it is where that has the `width` of y.

    Without `norm` LN is the identity. `above` has no channels in the first column and at the last
    level. Shape: both `[B, C, T]` in one tensor, D and U `[width, C]`, y `[B, width, T]`.
    """

    undecayed = ("norms",)

    def __init__(self, below: int, above: int, width: int, norm: bool) -> None:
        super().__init__()
        given = {"down": 0 if below == width else below, "up": above}
        self.below = below
        self.maps = nn.ModuleDict(
            {name: nn.Linear(count, width, bias=False) for name, count in given.items() if count}
        )
        make = nn.LayerNorm if norm else nn.Identity
        self.norms = nn.ModuleDict({name: make(width) for name in self.maps})

    def forward(self, x: Tensor) -> Tensor:
        rows = x.transpose(1, 2)
        below, above = rows[:, :, : self.below], rows[:, :, self.below :]
        y = self.norms["down"](self.maps["down"](below)) if "down" in self.maps else below
        if "up" in self.maps:
            y = y + self.norms["up"](self.maps["up"](above))
        return y.transpose(1, 2)

    def lower(self, program: Lowering, x: Value) -> Value:
        """The same in a native program."""
        below = program.part(x, 0, self.below)
        y = self._lower_map(program, "down", below) if "down" in self.maps else below
        if "up" in self.maps:
            above = program.part(x, self.below, x.channels - self.below)
            y = program.added(y, self._lower_map(program, "up", above))
        return y

    def _lower_map(self, program: Lowering, name: str, x: Value) -> Value:
        norm = self.norms[name]
        y = program.matrix(x, self.maps[name].weight)  # type: ignore[arg-type]
        if not isinstance(norm, nn.LayerNorm):
            return y
        return program.normalize(y, norm.eps, norm.weight, norm.bias)


class Spread(nn.Module):
    """x, concatenated with maps of zeros, of `channels` in all."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        zeros = x.new_zeros(x.shape[0], x.shape[2], self.channels - x.shape[1])
        return cat_channels([x, zeros.transpose(1, 2)])

    def lower(self, program: Lowering, x: Value) -> Value:
        """The same as one instruction of a native program."""
        return program.part(x, 0, self.channels)


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


def revcol(
    blocks: list[StreamLayer],
    channels: int,
    columns: int = 2,
    levels: int = 1,
    alpha_min: float = 1e-3,
    norm: bool = True,
) -> StreamLayer:
    """The residual blocks as `columns`, each with `levels` levels of every width of them.

    Blocks of one width are shared out in their order, first to the columns of the lowest level.
    What a block reads of a level above, or of another width than its own, passes a matrix and, with
    `norm`, a layer norm. Training stores the maps of one column, for any number of them. Widths
    with too few blocks, and blocks without a residual, stay in series. `channels` are those of the
    input.
    """
    if columns < 2 or levels < 1 or not 0 < alpha_min < 0.5:
        raise ComponentError(
            f"stack revcol: columns={columns}, levels={levels}, alpha_min={alpha_min}; give "
            "columns from 2, levels from 1, alpha_min between 0 and 0.5"
        )
    made = widths("revcol", blocks)
    pieces = list(zip(blocks, [channels, *made], made, strict=False))

    def alike(piece: _Piece) -> tuple[bool, int]:
        block, _, width = piece
        return has_residual(block) and (block.stride, block.rate) == (1, 1), width

    parts = columns * levels
    groups = [(joins, list(group)) for (joins, _), group in groupby(pieces, alike)]
    row: list[StreamLayer] = []
    for joins, runs in groupby(groups, lambda group: group[0] and len(group[1]) >= parts):
        if joins:
            shared = [_shared(group, parts) for _, group in runs]
            row.append(
                _columns([bodies for run in shared for bodies in run], columns, alpha_min, norm)
            )
        else:
            row += [block for _, group in runs for block, *_ in group]
    if len(row) == len(blocks):
        raise ComponentError(
            f"stack revcol: {columns} columns of {levels} levels need {parts} residual blocks of "
            "one width in a row; give more such rows, or copies of them"
        )
    return Serial(*row)


_Piece = tuple[StreamLayer, int, int]
"""Blocks in series and their input and output channels."""


def _shared(pieces: list[_Piece], parts: int) -> list[_Piece]:
    """Blocks in series as so many parts, the first of which have one block more than the last."""
    ends = [-(-len(pieces) * part // parts) for part in range(parts + 1)]
    shared = [pieces[start:end] for start, end in pairwise(ends)]
    return [(Serial(*(x for x, *_ in part)), part[0][1], part[-1][2]) for part in shared]


def _columns(pieces: list[_Piece], columns: int, alpha_min: float, norm: bool) -> Serial:
    """The parts of each level in turn, one of every column, as levels of the columns."""
    maps = [pieces[0][1], *(width for _, _, width in pieces[::columns])]
    made = [
        Level(body, width, maps, level, column == 0, alpha_min, norm)
        for column in range(columns)
        for level, (body, width, _) in enumerate(pieces[column::columns])
    ]
    return Serial(
        spread=FrameWise(Spread(sum(maps)), sum(maps)),
        columns=ReversibleSequence(*made),
        top=FrameWise(Top(maps[-1]), maps[-1]),
    )


def _part(x: Tensor, start: int, channels: int) -> Tensor:
    return x[:, start : start + channels]
