"""Layers with weights packed for one implementation, which `fuse` makes from other layers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeGuard
from weakref import WeakKeyDictionary

from torch import Tensor

from speechkit.nn.stream import Chunk, Delay, Serial, State, StreamLayer, Windowed
from speechkit.ops.activation import NONE
from speechkit.ops.explain import Choice
from speechkit.ops.separable_conv import Packed
from speechkit.ops.separable_conv.block import Block

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value
    from speechkit.streaming.engines.cuda.ring_net import RingNet, Stream


class SeparableConv(Windowed):
    """y = f(W (w * x) + b + residual): a complete sub-block as one op, for inference.

    `factors` are W without the norm after it, `[C', C]`, and the norm's scale of each row, `[C']`.
    Shape: x `[B, C, T]`, y and residual `[B, C', ceil(T / stride)]`.
    """

    def __init__(self, packed: Packed, factors: tuple[Tensor, Tensor] | None = None) -> None:
        shape = packed.shape
        super().__init__(*shape.padding, shape.stride)
        self.packed, self.factors = packed, factors
        # a step is padded with earlier frames
        self._within = replace(packed, shape=replace(shape, padding=(0, 0)))
        self._span = shape.dilation * (max(shape.taps, 1) - 1) + 1

    def channels_out(self, c_in: int) -> int:
        return self.packed.shape.c_out

    def implementation(self) -> Choice:
        """What it runs."""
        return self.packed.choice

    def forward(self, c: Chunk, residual: Tensor | None = None) -> Chunk:
        return Chunk(self.packed(c.x, c.valid, residual), self.own(c.valid))

    def step(self, c: Chunk, state: State, residual: Tensor | None = None) -> tuple[Chunk, State]:
        (x, valid), own, state = self.slide(c, state)
        return Chunk(self.compute(x, c.x.shape[2] // self.stride, valid, residual), own), state

    def compute(
        self, x: Tensor, frames: int, valid: Tensor, residual: Tensor | None = None
    ) -> Tensor:
        if not frames:
            return x.new_empty(x.shape[0], 0, self.packed.shape.c_out).transpose(1, 2)
        return self._within(x[:, :, : (frames - 1) * self.stride + self._span], None, residual)

    def lower(self, program: Lowering, x: Value) -> Value:
        return program.separable(x, self)

    def lower_to_rings(self, net: RingNet, x: Stream) -> Stream:
        return net.conv(self.packed, x)

    def extra_repr(self) -> str:
        s = self.packed.shape
        return (
            f"{s.c_in}→{s.c_out}, kernel={s.taps}, stride={s.stride}, dilation={s.dilation}, "
            f"{s.activation.kind}, {s.precision}, left={self.left}, right={self.right}"
        )


BLOCKS: WeakKeyDictionary[SeparableResidual, Block] = WeakKeyDictionary()
"""Native blocks, not kept in the layers, whose copies must not share the addresses in them."""


class SeparableResidual(StreamLayer):
    """y = f(last(head(x)) + shortcut(x)): a block whose last op adds the shortcut and activates.

    Shape: x `[B, C, T]`, y `[B, C', T / stride]`.
    """

    def __init__(self, head: StreamLayer, last: SeparableConv, shortcut: StreamLayer) -> None:
        super().__init__()
        self.head, self.last, self.shortcut = head, last, shortcut
        self.stride, self.rate = head.stride, head.rate
        self.delay = head.delay + last.delay
        self.left = max(head.left + last.left * head.stride, shortcut.left)
        self.right = max(head.right + last.right * head.stride, shortcut.right)
        self.shortcut_wait = Delay(self.delay - shortcut.delay)

    def channels_out(self, c_in: int) -> int:
        return self.last.channels_out(c_in)

    def forward(self, c: Chunk) -> Chunk:
        block = self.block()
        if block and block.can_take(c.x):
            return Chunk(block(c.x, c.valid), c.valid)
        y: Chunk = self.last(self.head(c), self.shortcut(c).x)
        return y

    def block(self) -> Block | None:
        """All parts as one native call, if they have that form and no hooks."""
        body, shortcut = [*_row(self.head), self.last], _row(self.shortcut)
        packed = [x.packed for x in (*body, *shortcut) if _is_plain(x)]
        if len(packed) < len(body) + len(shortcut):
            return None
        known = BLOCKS.get(self)
        if known is None or not known.holds(packed):
            if not shortcut or not all(map(Block.can_hold, packed)):
                return None
            BLOCKS[self] = known = Block(packed[: len(body)], packed[len(body) :])
        return known

    def init_state(self, batch: int, c_in: int, *more: object) -> State:
        between, out = self.head.channels_out(c_in), self.shortcut.channels_out(c_in)
        return (
            self.head.init_state(batch, c_in, *more),  # type: ignore[arg-type]
            self.last.init_state(batch, between, *more),  # type: ignore[arg-type]
            self.shortcut.init_state(batch, c_in, *more),  # type: ignore[arg-type]
            self.shortcut_wait.init_state(batch, out, *more),  # type: ignore[arg-type]
        )

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        head, s_head = self.head.step(c, state[0])
        shortcut, s_shortcut = self.shortcut.step(c, state[2])
        shortcut, s_wait = self.shortcut_wait.step(shortcut, state[3])
        y, s_last = self.last.step(head, state[1], shortcut.x)
        return y, (s_head, s_last, s_shortcut, s_wait)

    def lower(self, program: Lowering, x: Value) -> Value:
        shortcut = program.add(self.shortcut_wait, program.add(self.shortcut, x))
        return program.separable(program.add(self.head, x), self.last, shortcut)

    def lower_to_rings(self, net: RingNet, x: Stream) -> Stream:
        return net.residual(self, x)

    def projection(self) -> Packed | None:
        """The shortcut, if it is only a matrix and a bias."""
        row = _row(self.shortcut)
        only = row[0] if len(row) == 1 else None
        if type(only) is not SeparableConv:
            return None
        shape = only.packed.shape
        plain = not shape.taps and shape.stride == 1 and shape.activation == NONE
        return only.packed if plain else None


def _row(layer: StreamLayer) -> list[StreamLayer]:
    return list(layer) if isinstance(layer, Serial) else [layer]


def _is_plain(layer: StreamLayer) -> TypeGuard[SeparableConv]:
    return type(layer) is SeparableConv and not (layer._forward_hooks or layer._forward_pre_hooks)
