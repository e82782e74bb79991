"""Functions that give zeros below a threshold. Shape of all: `[B, C, T]` → the same."""

import torch
from torch import Tensor, nn

from speechkit.ops import Activation


class ShiftedReLU(nn.Module):
    """y = max(x − b, 0): the larger b, the more zeros. Mirzadeh et al., arXiv:2310.04564."""

    def __init__(self, channels: int, b: float = 0.0) -> None:
        super().__init__()
        self.b = b

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x - self.b)

    @property
    def native(self) -> Activation:
        return Activation("pieces", (self.b,), ((0, 0, 0), (-self.b, 1, 0)))


class FATReLU(nn.Module):
    """y = x where x ≥ threshold, otherwise 0. Song et al., arXiv:2402.13516."""

    def __init__(self, channels: int, threshold: float = 0.01) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        # this way round a NaN stays
        return torch.where(x < self.threshold, 0.0, x)

    @property
    def native(self) -> Activation:
        return Activation("pieces", (self.threshold,), ((0, 0, 0), (0, 1, 0)))
