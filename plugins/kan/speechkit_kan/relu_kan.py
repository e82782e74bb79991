"""Edges that are sums of bumps; each bump is the product of two ReLUs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit_kan.basis import phases
from speechkit_kan.edges import EdgeLayer, at_least

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value


class ReluKAN(EdgeLayer):
    """f_oi(x) = Σ_j w_oij (ReLU(x − low_ij) · ReLU(high_ij − x) · 4g² / (k + 1)²)².

    The g + k bumps have height 1. At first they are evenly spaced on [0, 1] and cover
    [−k/g, 1 + k/g]; outside it an edge is 0. Their ends are learned. Qiu et al., arXiv:2406.02075.
    """

    undecayed = ("low", "high")

    def __init__(self, c_in: int, c_out: int, grid: int = 3, order: int = 3) -> None:
        super().__init__(c_in, c_out)
        at_least(grid=(grid, 1), order=(order, 0))
        low, high = phases(grid, order)
        self.low = nn.Parameter(low.repeat(c_in, 1))
        self.high = nn.Parameter(high.repeat(c_in, 1))
        self.height = 4 * grid**2 / (order + 1) ** 2
        self.coefficients = nn.Parameter(torch.empty(c_out, c_in, len(low)))
        nn.init.kaiming_uniform_(self.coefficients, a=math.sqrt(5))

    def features(self, x: Tensor) -> Tensor:
        x = x.unsqueeze(-1)
        return (F.relu(x - self.low) * F.relu(self.high - x) * self.height).square()

    def lower_features(self, program: Lowering, x: Value) -> Value:
        ends = {"low": self.low.t().flatten(), "high": self.high.t().flatten()}
        wide = program.repeat(x, self.low.shape[1])
        bump = "(relu(x - low) * relu(high - x) * height) ** 2"
        return program.expression(bump, {**ends, "height": self.height}, wide)

    def weights(self) -> Tensor:
        return self.coefficients
