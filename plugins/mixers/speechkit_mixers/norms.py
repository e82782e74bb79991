"""Norms over the channels of a frame or of a head."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value

EPS = 1e-6


def inverse_rms(x: Tensor, eps: float = EPS) -> Tensor:
    """1 / √(mean x² + eps) along the last dimension, which is kept with the size 1."""
    return torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def unit(x: Tensor) -> Tensor:
    """x / √(|x|² + 1e-6) along the last dimension."""
    return x * (x.square().sum(-1, keepdim=True) + EPS).rsqrt()


def lower_unit(program: Lowering, x: Value, heads: int, factors: Tensor | None = None) -> Value:
    """`unit` of each head of a native program, times a factor for each, `[H]`."""
    each = x.channels // heads
    factors = torch.ones(heads) if factors is None else factors.detach().float().cpu().flatten()
    # over the mean of the squares instead of their sum
    scale = factors.repeat_interleave(each) * each**-0.5
    return program.normalize(x, EPS / each, scale, groups=heads, centred=False)


class RMSNorm(nn.RMSNorm):
    """y = x / √(mean x² + 1e-6) · weight over the last dimension."""

    undecayed = ("weight",)

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        # in mixed precision torch warns of a weight of another dtype
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), EPS)

    def lower(self, program: Lowering, x: Value) -> Value:
        """The same as one instruction of a native program."""
        return program.normalize(x, EPS, self.weight, centred=False)


class FrameNorm(RMSNorm):
    """`RMSNorm` of each frame. Shape: `[B, C, T]` → the same."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)

    lower = RMSNorm.lower


class RMSGate(nn.Module):
    """y = s x / √(mean(x²) + eps) · sigmoid(w x), the mean over the channels of a frame.

    s and w are numbers for each channel and start at 1. Shape: `[B, C, T]` → the same. Zhang et
    al., arXiv:2104.07012.
    """

    undecayed = "scale", "gate"

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))
        self.gate = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        frames = x.transpose(1, 2)
        y: Tensor = self.scale * frames * inverse_rms(frames) * (self.gate * frames).sigmoid()
        return y.transpose(1, 2)

    def lower(self, program: Lowering, x: Value) -> Value:
        """The norm, then the gate."""
        normal = program.normalize(x, EPS, self.scale, centred=False)
        return program.expression("a * sigmoid(gate * b)", {"gate": self.gate}, normal, x)


class HeadNorm(nn.Module):
    """y = (x − μ) / √(v + eps) · scale over the channels of each head: LayerNorm for q and k.

    Shape: `[B, C, T]` → the same.
    """

    undecayed = ("scale",)

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        heads = x.transpose(1, 2).unflatten(2, (self.heads, -1))
        normal = F.layer_norm(heads, heads.shape[3:], eps=EPS).flatten(2)
        return (normal * self.scale).transpose(1, 2)

    def lower(self, program: Lowering, x: Value) -> Value:
        """The same as one instruction of a native program."""
        return program.normalize(x, EPS, self.scale, groups=self.heads)
