"""Simplified linear attention: products of ReLUs in place of a softmax, and a convolution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from speechkit import ops
from speechkit.errors import ComponentError
from speechkit.nn import (
    Add,
    Chunk,
    Conv,
    FrameWise,
    LookAhead,
    Pointwise,
    Recurrent,
    Residual,
    Serial,
    State,
)
from speechkit_mixers.heads import join_heads, split_heads
from speechkit_mixers.memory import recalled, weights

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value

EPS = 1e-6
LEAST = -3e38
"""Below every number of v."""


class LinearAttention(Recurrent):
    """y_n = Σ_m (q_n · k_m) v_m / (Σ_m q_n · k_m + 10⁻⁶), m = 1 … n, in each of H `heads`.

    The channels are q and k, of which negative numbers count as 0, and v. Output frame o belongs
    to input frame o · stride; an invalid frame leaves the state unchanged. Shape: `[B, 3 · C, T]` →
    `[B, C, ceil(T / stride)]`; state: the sums of v kᵀ and k, `[B, H, C / H + 1, C / H]` in
    float64.
    """

    def __init__(self, channels: int, heads: int, stride: int = 1) -> None:
        super().__init__()
        self.channels, self.heads, self.stride = channels, heads, stride

    def channels_out(self, c_in: int) -> int:
        return self.channels

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        each = self.channels // self.heads
        shape = batch, self.heads, each + 1, each
        # after some hours a float32 would not grow any more
        return (torch.zeros(shape, dtype=torch.float64, device=device),)

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        self.check_chunk(c)
        if not c.x.shape[2]:
            return Chunk(c.x[:, : self.channels], c.valid), state
        q, k, v = self.split(c)
        counted = torch.cat([v, torch.ones_like(v[..., :1])], dim=3)
        o, sums = recalled(q, k, counted, c.valid, state[0])
        y = (o[..., :-1] / (o[..., -1:] + EPS))[:, :, :: self.stride]
        y = join_heads(y).to(c.x.dtype).transpose(1, 2)
        return Chunk(y, c.valid[:, :: self.stride]), (sums,)

    def implicit_attention(self, c: Chunk) -> Tensor:
        """α `[B, H, T, T]` with α v = y."""
        q, k, _ = self.split(c)
        products = weights(q, k, c.valid)
        return (products / (products.sum(3, keepdim=True) + EPS))[:, :, :: self.stride]

    def lower(self, program: Lowering, x: Value) -> Value:
        least = torch.tensor([0, 0, LEAST]).repeat_interleave(self.channels)
        return program.emit(
            "linear_attention",
            program.expression("max(x, least)", {"least": least}, x),
            rows=x.rows // self.stride,
            channels=self.channels,
            stride=self.stride,
            size=self.heads,
            taps=self.channels // self.heads,
            numbers=[EPS, False],
        )

    def macs(self, frames: int) -> int:
        # v kᵀ, and that times q
        return 2 * self.channels**2 // self.heads * frames

    def split(self, c: Chunk) -> list[Tensor]:
        """q, k and v, `[B, H, T, C / H]`, in float32 at least; q and k of invalid frames are 0."""
        wide = torch.promote_types(c.x.dtype, torch.float32)
        q, k, v = c.masked.transpose(1, 2).to(wide).chunk(3, dim=2)
        return [split_heads(part, self.heads) for part in (q.relu(), k.relu(), v)]

    def extra_repr(self) -> str:
        return f"heads={self.heads}, stride={self.stride}"


class HeadConv(Conv):
    """A depthwise convolution whose filters all heads share.

    Shape: x `[B, H · d, T]`, weight `[d, 1, kernel]`, y `[B, H · d, ceil(T / stride)]`.
    """

    def __init__(
        self, channels: int, heads: int, kernel: int, stride: int, lookahead: LookAhead
    ) -> None:
        super().__init__(kernel, stride, 1, lookahead)
        self.heads = heads
        self.weight = nn.Parameter(torch.empty(channels // heads, 1, kernel))
        nn.init.xavier_uniform_(self.weight)

    def filters(self) -> Tensor:
        """The filter of each channel, `[H · d, 1, kernel]`."""
        return self.weight.repeat(self.heads, 1, 1)

    def convolve(self, window: Tensor) -> Tensor:
        return ops.depthwise_conv(window, self.filters(), self.stride)

    def compute(self, x: Tensor, frames: int, valid: Tensor) -> Tensor:
        return super().compute(x, frames, valid) if frames else x[:, :, :0]

    def lower(self, program: Lowering, x: Value) -> Value:
        return program.depthwise(x, self, self.filters())

    def macs(self, frames: int) -> int:
        return self.heads * self.weight.numel() * self.frames_out(frames)


class Last(nn.Module):
    """The last third of the channels. Shape: `[B, 3 · C, T]` → `[B, C, T]`."""

    def forward(self, x: Tensor) -> Tensor:
        return x.chunk(3, dim=1)[2]

    def lower(self, program: Lowering, x: Value) -> Value:
        return program.part(x, x.channels // 3 * 2, x.channels // 3)


class SimplifiedLinearAttention(Serial):
    """y = W_o (linear attention(q, k, v) + w ∗ v) with q, k, v = W x.

    W and W_o have biases. w has `taps` taps and reads at most `lookahead` frames after its own; it
    is the same in each head. The paper attends to the whole utterance, we to the frames so far.
    Shape: `[B, C, T]` → `[B, C, ceil(T / stride)]`. Guo et al., SLAB, arXiv:2405.11582.
    """

    def __init__(
        self,
        channels: int,
        stride: int = 1,
        lookahead: LookAhead = 0,
        heads: int = 4,
        taps: int = 5,
    ) -> None:
        if heads < 1 or channels % heads or taps < 1:
            raise ComponentError(
                f"mixer sla: heads={heads}, taps={taps} for {channels} channels; give heads that "
                "divide the channels, and taps from 1 up"
            )
        attention = LinearAttention(channels, heads, stride)
        conv = HeadConv(channels, heads, taps, stride, lookahead)
        near = Serial(values=FrameWise(Last(), channels), conv=conv)
        super().__init__(
            input=Pointwise(channels, 3 * channels, bias=True),
            sum=Residual(attention, near, Add()),
            output=Pointwise(channels, channels, bias=True),
        )


def sla(
    channels: int,
    kernel: int,
    stride: int,
    dilation: int,
    lookahead: LookAhead,
    heads: int = 4,
    taps: int = 5,
) -> SimplifiedLinearAttention:
    """The attention as a mixer; it remembers all frames, so `kernel` and `dilation` have no
    effect."""
    return SimplifiedLinearAttention(channels, stride, lookahead, heads, taps)
