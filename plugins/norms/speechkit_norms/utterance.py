"""Norms with the statistics of a whole utterance.

They do not stream, since the first frame's output depends on the last frame. `layer_cum` and
`running` use the statistics of the frames up to the current one instead.
"""

import math

import torch
from torch import nn

from speechkit.frontend import Offline
from speechkit.nn import Chunk
from speechkit_norms.precision import wide


class _UtteranceNorm(Offline):
    """y = (x − μ) / √(σ² + eps) · weight + bias, μ and σ² over `axes` of the valid frames.

    Axis 1 is time, axis 2 the channels.
    """

    left = right = math.inf
    axes: tuple[int, ...]
    undecayed = ("weight", "bias")

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, c: Chunk) -> Chunk:
        x, frames = wide(c.masked.transpose(1, 2)), c.lengths[:, None, None].clamp(min=1)
        count = frames * x.shape[2] if 2 in self.axes else frames
        mean = x.sum(self.axes, keepdim=True) / count
        centred = torch.where(c.valid[:, :, None], x - mean, 0)
        variance = centred.square().sum(self.axes, keepdim=True) / count
        y = torch.addcmul(self.bias, centred * torch.rsqrt(variance + self.eps), self.weight)
        return Chunk(y.to(c.x.dtype).transpose(1, 2), c.valid)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}"


class LayerNormCT(_UtteranceNorm):
    """y = (x − μ) / √(σ² + eps) · weight + bias, μ and σ² over channels and valid frames.

    It is GroupNorm of one group over `[C, T]`, without the padding. Initially weight 1, bias 0.
    Shape: x `[B, C, T]` → the same, weight and bias `[C]`. Its step raises StreamError; `layer_cum`
    streams. Ba et al., arXiv:1607.06450.
    """

    axes = (1, 2)
    instead = "norm 'layer_cum' or 'layer'"


class InstanceNorm(_UtteranceNorm):
    """y = (x − μ) / √(σ² + eps) · weight + bias, μ and σ² over each channel's valid frames.

    Initially weight 1, bias 0. Shape: x `[B, C, T]` → the same, weight and bias `[C]`. Its step
    raises StreamError; `running` streams. Ulyanov et al., arXiv:1607.08022.
    """

    axes = (1,)
    instead = "norm 'running'"
