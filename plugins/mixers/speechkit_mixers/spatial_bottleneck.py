"""Spatial bottleneck: the product over channels is computed at a lower frame rate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.errors import ComponentError
from speechkit.nn import (
    BodyMaker,
    Chunk,
    Delay,
    DepthwiseConv,
    LookAhead,
    Residual,
    Serial,
    State,
    StreamLayer,
    Windowed,
    reach,
)

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value


class Expand(Windowed):
    """y[c, n · rate + i] = Σ_j w[c, i, j] x[c, n + j − left]: `rate` output frames for each frame.

    It is a depthwise transposed convolution of `kernel` output frames, rounded up to whole frames
    of its input. Shape: x `[B, C, T]`, weight `[rate · C, 1, taps]`, y `[B, C, rate · T]`.
    """

    def __init__(self, channels: int, kernel: int, rate: int, lookahead: LookAhead) -> None:
        taps = -(-kernel // rate)
        left, right = reach(taps, 1, lookahead)
        super().__init__(left, right, 1, rate)
        self.weight = nn.Parameter(torch.empty(rate * channels, 1, taps))
        nn.init.xavier_uniform_(self.weight)

    def own(self, valid: Tensor) -> Tensor:
        return valid.repeat_interleave(self.rate, 1)

    def compute(self, x: Tensor, frames: int, valid: Tensor) -> Tensor:
        if not frames:
            return x[:, :, :0]
        made = F.conv2d(x.unsqueeze(2), self.weight.unsqueeze(2), groups=x.shape[1])
        rows = made.squeeze(2).transpose(1, 2).unflatten(2, (-1, self.rate))
        y: Tensor = rows.transpose(2, 3).flatten(1, 2).transpose(1, 2)
        return y

    def lower(self, program: Lowering, x: Value) -> Value:
        # filter i of each channel makes the i-th of its output frames
        filters = self.weight.unflatten(0, (-1, self.rate)).transpose(0, 1).flatten(0, 2)
        taps = DepthwiseConv(1, filters.shape[1], lookahead=self.right)
        made = program.depthwise(program.repeat(x, self.rate), taps, filters)
        return program.spread(made, self.rate)

    def macs(self, frames: int) -> int:
        return self.weight.numel() * frames


class SpatialBottleneck(StreamLayer):
    """y = up(between(down(x))): `down` has a stride, and `up` as many output frames for each frame.

    The frames of `up` after the end of the input are dropped. Shape: `[B, C, T]` → `[B, C', T]`.
    """

    def __init__(self, down: StreamLayer, between: StreamLayer, up: StreamLayer) -> None:
        super().__init__()
        self.body = Serial(down=down, between=between, up=up)
        self.stride, self.rate, self.delay = self.body.stride, self.body.rate, self.body.delay
        # the last frame of a stride reads as far back as the first
        self.left, self.right = self.body.left + self.stride - 1, self.body.right

    def channels_out(self, c_in: int) -> int:
        return self.body.channels_out(c_in)

    def forward(self, c: Chunk) -> Chunk:
        y: Chunk = self.body(c)
        return Chunk(y.x[:, :, : c.x.shape[2]], c.valid)

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        valid = torch.zeros(batch, self.delay, dtype=torch.bool, device=device)
        return self.body.init_state(batch, c_in, dtype, device), valid

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        self.check_chunk(c)
        y, inside = self.body.step(c, state[0])
        valid, given = torch.cat([state[1], c.valid], dim=1), c.x.shape[2]
        return Chunk(y.x, valid[:, :given].clone()), (inside, valid[:, given:])

    def lower(self, program: Lowering, x: Value) -> Value:
        y = program.add(self.body, x)
        # a frame is valid if it was in the input, not if the first of its stride was
        waited = program.part(program.add(Delay(self.delay), x), 0, y.channels)
        return program.expression("b", {}, waited, y)


def spatial_bottleneck(
    c_in: int,
    c_out: int,
    make_body: BodyMaker,
    index: int = 0,
    depth: int = 1,
    factor: int = 2,
) -> StreamLayer:
    """y = activation(merge(shortcut(x), body(x))), the body's channel layer at a lower rate.

    A sub-block is a mixer with the stride `factor`, a channel layer, a depthwise transposed
    convolution and a norm. Both convolutions have the row's kernel; the paper's kernel is the
    stride. Wang, Liu & Foroosh, arXiv:1608.04337.
    """
    if factor < 2 or make_body.stride > 1:
        raise ComponentError(
            f"block spatial_bottleneck: factor={factor} in a row of stride {make_body.stride}; "
            "give factor from 2 up and a row of stride 1"
        )
    wide, kernel, ahead = c_out * make_body.widening, make_body.kernel, make_body.lookahead
    layers: list[StreamLayer] = []
    for width in [c_in] + [c_out] * (make_body.repeat - 1):
        if layers:
            layers.append(make_body.after(c_out))
        down = make_body.mixer(width, kernel, factor, make_body.dilation, ahead)
        up = Expand(wide, kernel, factor, ahead)
        layers += SpatialBottleneck(down, make_body.channel(width, wide), up), make_body.norm(wide)
    body, after = Serial(*layers), make_body.after(c_out)
    if not make_body.residual:
        return Serial(body=body, after=after)
    merge = make_body.merge(wide, index, depth)
    return Serial(sum=Residual(body, make_body.shortcut(c_in, c_out), merge), after=after)
