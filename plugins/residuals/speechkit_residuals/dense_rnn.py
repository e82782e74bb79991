"""Densely connected recurrent layers, Ding et al., arXiv:1802.00889."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from speechkit.errors import ComponentError
from speechkit.nn import BodyMaker, Chunk, Dropout, FrameWise, Rnn, Serial, StreamLayer
from speechkit_residuals.linked import Linked
from speechkit_residuals.parts import cat_channels

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value


class Dense(Linked):
    """Layers that each read the input and all earlier outputs, concatenated."""

    def into(self, index: int, history: list[Chunk]) -> Tensor:
        return cat_channels([h.x for h in history])

    def lower_into(self, program: Lowering, index: int, history: list[Value]) -> Value:
        return program.join(*history)

    def width_into(self, index: int, widths: list[int]) -> int:
        return sum(widths)


def dense_rnn(
    c_in: int,
    c_out: int,
    make_body: BodyMaker,
    index: int = 0,
    depth: int = 1,
    layers: int = 3,
    hidden: int = 13,
    cell: str = "lstm",
    bidirectional: bool = False,
) -> StreamLayer:
    """`layers` recurrent layers; each reads the input and all earlier outputs.

    All but the last have `hidden` units in each direction; the last has c_out channels. They
    replace the body, so `kernel` and `lookahead` have no effect.
    """
    directions = 2 if bidirectional else 1
    wide = c_out * make_body.widening
    if layers < 1 or hidden < 1 or wide % directions:
        raise ComponentError(
            f"block dense_rnn: layers={layers}, hidden={hidden}, {wide} channels; give at least 1 "
            "of each, and an even number of channels if bidirectional"
        )
    made: list[StreamLayer] = []
    for layer in range(layers):
        reads = c_in + layer * hidden * directions
        units = hidden if layer < layers - 1 else wide // directions
        rnn = Rnn(reads, units, cell, bidirectional)
        made.append(_dropped(rnn, make_body.dropout))
    # a gated activation needs more channels than it returns
    ends = {"after": make_body.after(c_out)} if make_body.widening > 1 else {}
    return Serial(layers=Dense(made), **ends)


def _dropped(rnn: Rnn, rate: float) -> StreamLayer:
    return Serial(rnn=rnn, dropout=FrameWise(Dropout(rate))) if rate else rnn
