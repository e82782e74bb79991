"""A stack that halves the frame rate on the way down and restores it on the way up."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from speechkit.errors import ComponentError
from speechkit.nn import (
    BatchNorm,
    Chunk,
    Delay,
    DepthwiseConv,
    FrameWise,
    Pointwise,
    Serial,
    State,
    StreamLayer,
    Windowed,
)

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value


class Halve(Windowed):
    """y[t] = max(x[2t], x[2t + 1]), where an invalid frame is 0. Shape: `[B, C, T]` → `T / 2`."""

    def __init__(self) -> None:
        super().__init__(left=0, right=1, stride=2)

    def compute(self, x: Tensor, frames: int, valid: Tensor) -> Tensor:
        x = x[:, :, : 2 * frames].transpose(1, 2)
        return torch.maximum(x[:, ::2], x[:, 1::2]).transpose(1, 2)

    def lower(self, program: Lowering, x: Value) -> Value:
        both = program.unfold(x, DepthwiseConv(1, 2, stride=2, lookahead=1))
        first, second = (program.part(both, k * x.channels, x.channels) for k in range(2))
        return program.expression("max(a, b)", {}, first, second)


class Double(StreamLayer):
    """Every frame twice. Shape: `[B, C, T]` → `[B, C, 2T]`."""

    rate = 2
    left = Fraction(1, 2)

    def forward(self, c: Chunk) -> Chunk:
        x = c.x.transpose(1, 2).repeat_interleave(2, dim=1).transpose(1, 2)
        return Chunk(x, c.valid.repeat_interleave(2, dim=1))

    def lower(self, program: Lowering, x: Value) -> Value:
        return program.spread(program.repeat(x, 2), 2)


class Beside(StreamLayer):
    """The input, then the output of a layer whose stride is its rate, as channels.

    Shape: `[B, C, T]` → `[B, C + C', T]`.
    """

    def __init__(self, inner: StreamLayer) -> None:
        super().__init__()
        self.inner, self.wait = inner, Delay(inner.delay)
        self.stride, self.rate, self.delay = inner.stride, inner.rate, inner.delay
        self.left, self.right = inner.left, inner.right

    def channels_out(self, c_in: int) -> int:
        return c_in + self.inner.channels_out(c_in)

    def forward(self, c: Chunk) -> Chunk:
        y = self.inner(c).x[:, :, : c.x.shape[2]]
        return Chunk(torch.cat([c.x, y], dim=1), c.valid)

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        layers = self.wait, self.inner
        return tuple(layer.init_state(batch, c_in, dtype, device) for layer in layers)

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        self.check_chunk(c)
        x, waiting = self.wait.step(c, state[0])
        y, inner = self.inner.step(c, state[1])
        return Chunk(torch.cat([x.x, y.x], dim=1), x.valid), (waiting, inner)

    def lower(self, program: Lowering, x: Value) -> Value:
        return program.join(program.add(self.wait, x), program.add(self.inner, x))


def unet(blocks: list[StreamLayer], levels: int | None = None) -> StreamLayer:
    """The frame rate is halved after each of the first `levels` blocks, doubled before the last.

    A block on the way up reads the block below it, with every frame twice, and the output of the
    block of its own rate on the way down, after a 1×1 layer, a batch norm and a ReLU. By default
    all blocks but one or two are on these ways. The net takes 2^levels frames at a time, and all
    their outputs read all of them. Ronneberger et al., arXiv:1505.04597, as in R2U-Net,
    arXiv:1802.06955.
    """
    depth = (len(blocks) - 1) // 2 if levels is None else levels
    if not 1 <= depth <= (len(blocks) - 1) // 2:
        raise ComponentError(
            f"stack unet: levels={levels} of {len(blocks)} blocks; give at least 3 blocks, and "
            "levels from 1 to (blocks - 1) / 2"
        )
    strides = [str(index) for index, b in enumerate(blocks) if (b.stride, b.rate) != (1, 1)]
    if strides:
        raise ComponentError(
            f"stack unet: block {', '.join(strides)} has a stride; give a net with strides only in "
            "its stem"
        )
    widths = [0]
    for block in blocks:
        widths.append(block.channels_out(widths[-1]))
    middle = blocks[depth : len(blocks) - depth]
    inner: StreamLayer = Serial(*middle)
    for level in reversed(range(depth)):
        # of the block on the way up: what it reads is as wide as in a plain stack
        up = len(blocks) - 1 - level
        beside, below = widths[level + 1], widths[up]
        inner = Serial(
            down=blocks[level],
            inner=Beside(Serial(halved=Halve(), inner=inner, doubled=Double())),
            join=_joined(beside + below, below),
            up=blocks[up],
        )
    return inner


def _joined(c_in: int, c_out: int) -> Serial:
    return Serial(channel=Pointwise(c_in, c_out), norm=BatchNorm(c_out), relu=FrameWise(nn.ReLU()))
