"""The modules: each maps `[B, C, T]` to the same shape, frame by frame."""

import torch
from torch import Tensor, nn

from speechkit.nn import Elementwise


class Squareplus(Elementwise):
    """y = (x + sqrt(x² + b)) / 2. Shape: `[B, C, T]` → the same. Barron, arXiv:2112.11687."""

    expression = "(x + sqrt(x * x + b)) / 2"

    def __init__(self, channels: int, b: float = 4.0) -> None:
        super().__init__()
        self.b = b


class MeanAbs(nn.Module):
    """y[c] = x[c] / (mean over c of |x[c]| + eps) · weight[c]. Shape: `[B, C, T]` → the same."""

    def __init__(self, channels: int, eps: float = 1e-3) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x / (x.abs().mean(1, keepdim=True) + self.eps) * self.weight[:, None]
