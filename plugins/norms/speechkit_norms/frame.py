"""Norms with the statistics of one frame; they stream without state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.errors import ComponentError
from speechkit_norms.precision import wide

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value


class RMSNorm(nn.Module):
    """y = x / (RMS + eps) · weight (+ bias), RMS = √(mean_c x²) of each frame.

    The mean is over the first max(1, ⌊p · C⌋) channels: with p < 1 this is pRMSNorm. With
    `eps_mode="inside"`, as in torch, it is y = x / √(RMS² + eps) · weight. No mean is subtracted,
    and nothing depends on the batch. Initially weight 1, bias 0. Shape: x `[B, C, T]` → the same,
    weight and bias `[C]`. Zhang & Sennrich, arXiv:1910.07467.
    """

    undecayed = ("weight", "bias")

    def __init__(
        self,
        channels: int,
        eps: float = 1e-8,
        p: float = 1.0,
        bias: bool = False,
        eps_mode: Literal["outside", "inside"] = "outside",
    ) -> None:
        super().__init__()
        if not 0 < p <= 1:
            raise ComponentError(f"p={p}: give a share of the channels above 0, at most 1")
        if eps_mode not in ("outside", "inside"):
            raise ComponentError(f"eps_mode={eps_mode!r}: give outside or inside")
        self.eps, self.eps_mode = eps, eps_mode
        self.counted = max(1, int(channels * p))
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        frames = wide(x.transpose(1, 2))
        # at a frame of zeros this gradient is 0; that of the root of a mean of squares is NaN
        norm = torch.linalg.vector_norm(frames[:, :, : self.counted], dim=2, keepdim=True)
        rms = norm / self.counted**0.5
        inside = self.eps_mode == "inside"
        rms = (rms.square() + self.eps).sqrt() if inside else rms + self.eps
        y: Tensor = frames / rms * self.weight
        if self.bias is not None:
            y = y + self.bias
        return y.to(x.dtype).transpose(1, 2)

    def lower(self, program: Lowering, x: Value) -> Value:
        """The same as one instruction of a native program."""
        return program.normalize(
            x,
            self.eps,
            self.weight,
            self.bias,
            counted=self.counted,
            centred=False,
            outside=self.eps_mode == "outside",
        )

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps} {self.eps_mode}, counted={self.counted}"


class LayerNorm(nn.Module):
    """y = (x − μ) / √(σ² + eps) · weight + bias, μ and σ² over the channels of each frame.

    Nothing depends on the batch; training and evaluation are the same. Initially weight 1, bias 0;
    neither exists if `affine` is off. Shape: x `[B, C, T]` → the same, weight and bias `[C]`.
    Ba et al., arXiv:1607.06450.
    """

    undecayed = ("weight", "bias")

    def __init__(self, channels: int, eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__()
        self.channels, self.eps = channels, eps
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        frames = x.transpose(1, 2)
        return F.layer_norm(frames, (self.channels,), self.weight, self.bias, self.eps).transpose(
            1, 2
        )

    def lower(self, program: Lowering, x: Value) -> Value:
        """The same as one instruction of a native program."""
        return program.normalize(x, self.eps, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{self.channels}, eps={self.eps}, affine={self.weight is not None}"


class GroupNorm(nn.Module):
    """y = (x − μ) / √(σ² + eps) · weight + bias, μ and σ² over each group of a frame's channels.

    The paper also averages over positions, which are time here. This layer does not, so it streams.
    With one group it is LayerNorm. Initially weight 1, bias 0. Shape: x `[B, C, T]` → the same,
    weight and bias `[C]`. After Wu & He, arXiv:1803.08494.
    """

    undecayed = ("weight", "bias")

    def __init__(self, channels: int, groups: int = 8, eps: float = 1e-5) -> None:
        super().__init__()
        if groups < 1 or channels % groups or channels == groups:
            fits = [n for n in range(1, channels) if channels % n == 0]
            raise ComponentError(f"{groups} groups of {channels} channels: give one of {fits}")
        self.groups, self.eps = groups, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        grouped = x.transpose(1, 2).unflatten(2, (self.groups, -1))
        y = F.layer_norm(grouped, grouped.shape[3:], eps=self.eps).flatten(2)
        return torch.addcmul(self.bias, y, self.weight).to(x.dtype).transpose(1, 2)

    def lower(self, program: Lowering, x: Value) -> Value:
        """The same as one instruction of a native program."""
        return program.normalize(x, self.eps, self.weight, self.bias, groups=self.groups)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, groups={self.groups}, eps={self.eps}"
