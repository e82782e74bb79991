"""Leaky ReLU whose slopes are powers of two."""

import torch
from torch import Tensor, nn

from speechkit.nn import Elementwise


class QPReLU(Elementwise):
    """y = x where x ≥ 0, else 2^round(L) x, with an L for each channel that starts at `log2`.

    Rounding has a gradient of 1. A multiplication by a power of two is a shift of bits, and exact.
    Shape: `[B, C, T]` → the same. Source: A&B BNN, arXiv:2403.03739.
    """

    expression = "where(x >= 0, x, slope * x)"
    undecayed = ("log2",)

    def __init__(self, channels: int, log2: float = -3.0) -> None:
        super().__init__()
        self.log2 = nn.Parameter(torch.full((channels,), log2))

    @property
    def slope(self) -> Tensor:
        """2^round(L), `[C]`."""
        # the difference is 0, but has a gradient
        return torch.exp2(self.log2.detach().round() + (self.log2 - self.log2.detach()))
