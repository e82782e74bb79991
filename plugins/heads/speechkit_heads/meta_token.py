"""A head with a learned token that attends to the frames, and tells at which of them it looked."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from speechkit.nn import AveragePool, Chunk, ClipHead, Pointwise, Serial, StreamLayer

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value

LARGEST = 30.0
"""The largest exponent: sums of e^30 x are finite in float32 for all x that occur."""


class Weighed(StreamLayer):
    """[e y; e] of each frame: its logits y = W x + b, and e = exp(m · x) with a learned m.

    The exponent is clamped to ±30. Shape: `[B, C, T]` → `[B, labels + 1, T]`, in float32 at least.
    """

    undecayed = ("token",)

    def __init__(self, channels: int, labels: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(channels) / math.sqrt(channels))
        self.linear = Pointwise(channels, labels, bias=True)

    def channels_out(self, c_in: int) -> int:
        return self.linear.channels_out(c_in) + 1

    def forward(self, c: Chunk) -> Chunk:
        e, y = self.frame_weights(c)[:, None], self.linear(c).x
        return Chunk(torch.cat([e * y, e], dim=1), c.valid)

    def frame_weights(self, c: Chunk) -> Tensor:
        """e of each frame, `[B, T]`."""
        scores = c.x.transpose(1, 2) @ self.token
        wide = torch.promote_types(scores.dtype, torch.float32)
        return scores.to(wide).clamp(-LARGEST, LARGEST).exp()

    def lower(self, program: Lowering, x: Value) -> Value:
        scores = program.matrix(x, self.token.detach()[None])
        e = program.expression("exp(min(max(x, -most), most))", {"most": LARGEST}, scores)
        y = program.add(self.linear, x)
        return program.join(program.expression("a * b", {}, y, program.repeat(e, y.channels)), e)

    def macs(self, frames: int) -> int:
        return self.linear.macs(frames) + (len(self.token) + self.linear.channels_out(0)) * frames


class Divided(StreamLayer):
    """x / e of each frame, where e is the last channel. Shape: `[B, C + 1, T]` → `[B, C, T]`.

    e is raised to e^−30, so that a mean over no frames gives 0.
    """

    def channels_out(self, c_in: int) -> int:
        return c_in - 1

    def forward(self, c: Chunk) -> Chunk:
        return Chunk(c.x[:, :-1] / c.x[:, -1:].clamp(min=math.exp(-LARGEST)), c.valid)

    def lower(self, program: Lowering, x: Value) -> Value:
        channels = x.channels - 1
        e = program.repeat(program.part(x, channels, 1), channels)
        least = {"least": math.exp(-LARGEST)}
        return program.expression("a / max(b, least)", least, program.part(x, 0, channels), e)


class MetaToken(ClipHead):
    """Logits of one utterance, y = W Σ_t w_t x_t + b with w = softmax_t(m · x_t).

    t are the valid frames, and m is a learned token, N(0, 1 / C) at first. With m = 0 it is the
    head `clip`. It is computed as a mean of e_t (W x_t + b) divided by a mean of e_t, where e_t is
    exp(m · x_t), so it streams as `AveragePool` does. Exponents are clamped to ±30. Shape:
    `[B, C, T]` → `[B, labels, 1]`. Source: Liang et al., ReTR, arXiv:2305.18832, of whose ray
    transformer only the token's attention is kept.
    """

    def __init__(self, channels: int, labels: int) -> None:
        super().__init__()
        self.weighed, self.mean, self.divided = Weighed(channels, labels), AveragePool(), Divided()

    def channels_out(self, c_in: int) -> int:
        return self.weighed.linear.channels_out(c_in)

    def forward(self, c: Chunk) -> Chunk:
        y: Chunk = self.divided(self.mean(self.weighed(c)))
        return y

    def running(self) -> StreamLayer:
        return Serial(weighed=self.weighed, mean=self.mean.running(), divided=self.divided)

    def sliding(self, frames: int) -> StreamLayer:
        return Serial(weighed=self.weighed, mean=self.mean.sliding(frames), divided=self.divided)

    def attention(self, c: Chunk) -> Tensor:
        """w `[B, T]`: the weight of each frame of x, 0 where it is not valid."""
        e = torch.where(c.valid, self.weighed.frame_weights(c), 0)
        return e / e.sum(1, keepdim=True)

    def place(self, c: Chunk) -> Tensor:
        """τ = Σ_t w_t t `[B]`: the expected frame, from 0."""
        w = self.attention(c)
        return w @ torch.arange(w.shape[1], dtype=w.dtype, device=w.device)
