"""Res2Net: several time scales within one block."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from speechkit.errors import ComponentError
from speechkit.nn import BodyMaker, Chunk, Residual, Serial, StreamLayer
from speechkit_residuals.linked import Linked
from speechkit_residuals.parts import cat_channels, chosen

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value


class Scales(Linked):
    """Groups of channels in a cascade: y_1 = K_1(x_1), y_i = K_i(x_i + y_{i−1}), one unchanged.

    `identity` is the group without a K: the "last", or the "first" as in ECAPA, where the second
    group starts the cascade. If there is only one layer, it reads all channels. Shape:
    `[B, s · width, T]` → the same, with s − 1 layers.
    """

    def __init__(self, layers: list[StreamLayer], width: int, identity: str = "last") -> None:
        super().__init__(layers)
        chosen("block res2", "identity", identity, ("last", "first"))
        self.width, self.first = width, identity == "first"
        self.groups = len(layers) + 1

    def into(self, index: int, history: list[Chunk]) -> Tensor:
        given = self._group(history[0].x, index + self.first)
        return given + history[-1].x if index else given

    def out_of(self, index: int, y: Chunk, history: list[Chunk]) -> Tensor:
        if index < self.groups - 2:
            return y.x
        kept = self._group(history[0].x, 0 if self.first else self.groups - 1)
        made = [*(h.x for h in history[1:]), y.x]
        parts = [kept, *made] if self.first else [*made, kept]
        return cat_channels(parts)

    def lower_into(self, program: Lowering, index: int, history: list[Value]) -> Value:
        given = self._lower_group(program, history[0], index + self.first)
        return program.added(given, history[-1]) if index else given

    def lower_out_of(self, program: Lowering, index: int, y: Value, history: list[Value]) -> Value:
        if index < self.groups - 2:
            return y
        kept = self._lower_group(program, history[0], 0 if self.first else self.groups - 1)
        made = [*history[1:], y]
        return program.join(*([kept, *made] if self.first else [*made, kept]))

    def width_into(self, index: int, widths: list[int]) -> int:
        return self.width

    def width_out(self, index: int, width: int, widths: list[int]) -> int:
        return width if index < self.groups - 2 else self.groups * self.width

    def _group(self, x: Tensor, index: int) -> Tensor:
        return x[:, index * self.width : (index + 1) * self.width]

    def _lower_group(self, program: Lowering, x: Value, index: int) -> Value:
        return program.part(x, index * self.width, self.width)


def res2(
    c_in: int,
    c_out: int,
    make_body: BodyMaker,
    index: int = 0,
    depth: int = 1,
    scale: int = 4,
    width: int = 0,
    identity: str = "last",
) -> StreamLayer:
    """y = activation(shortcut(x) + norm(W scales(activation(norm(V x))))), each `[channel, norm]`.

    The `scale` groups have `width` channels each, by default c_out / scale. Each layer of a cascade
    is a sub-block with an activation. There are `repeat` cascades in series; scale 1 has none.
    Gao et al., arXiv:1904.01169; identity "first": Desplanques et al., arXiv:2005.07143.
    """
    width = width or c_out // scale
    if scale < 1 or (width * scale != c_out and width == c_out // scale):
        raise ComponentError(
            f"block res2: {c_out} channels are not a multiple of scale={scale}; give another, "
            "or a width"
        )
    inner = width * scale
    reduce = Serial(layer=make_body.shortcut(c_in, inner), after=make_body.after(inner))
    cascades = [_cascade(make_body, width, scale, identity) for _ in range(make_body.repeat)]
    body = Serial(reduce, *cascades, make_body.shortcut(inner, c_out))
    merge = make_body.merge(c_out * make_body.widening, index, depth)
    total = Residual(body, make_body.matched(c_in, c_out), merge)
    return Serial(sum=total, after=make_body.after(c_out))


def _cascade(make_body: BodyMaker, width: int, scale: int, identity: str) -> StreamLayer:
    def layer() -> Serial:
        return Serial(layer=make_body.layer(width, width), after=make_body.after(width))

    if scale == 1:
        return layer()
    return Scales([layer() for _ in range(scale - 1)], width, identity)
