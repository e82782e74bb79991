"""The original KAN layer: edges are splines on a grid, which can be fitted to the data."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit_kan.basis import SQUASHED, b_splines, even_knots, lower_splines, squashing
from speechkit_kan.edges import EdgeLayer, at_least

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value


class BSplineKAN(EdgeLayer):
    """f_oi(x) = base_oi · SiLU(x) + scale_oi · Σ_g c_oig B_g(squash(x)).

    B_g are the grid + order B-splines of degree `order` over `grid` intervals of [−1, 1]. Without
    `squash` they are 0 outside this range, and only the SiLU remains. With `scaler` each edge
    learns a scale_oi; otherwise it is 1. Coefficients start in ±`noise` / (2 grid). Liu et al.,
    arXiv:2404.19756.
    """

    knots: Tensor
    undecayed = ("scale",)

    def __init__(
        self,
        c_in: int,
        c_out: int,
        grid: int = 5,
        order: int = 3,
        squash: str = "tanh",
        scaler: bool = True,
        noise: float = 0.1,
    ) -> None:
        super().__init__(c_in, c_out)
        at_least(grid=(grid, 1), order=(order, 0))
        self.grid, self.order = grid, order
        self.squash, self.squashed = squashing(squash, "tanh", "clip", "none"), squash
        self.base = nn.Parameter(torch.empty(c_out, c_in))
        nn.init.kaiming_uniform_(self.base, a=math.sqrt(5))
        self.coefficients = nn.Parameter(torch.empty(c_out, c_in, grid + order))
        nn.init.uniform_(self.coefficients, -noise / (2 * grid), noise / (2 * grid))
        self.scale = nn.Parameter(torch.ones(c_out, c_in)) if scaler else None
        self.register_buffer("knots", even_knots(grid, order).repeat(c_in, 1))

    def features(self, x: Tensor) -> Tensor:
        splines = b_splines(self.squash(x), self.knots, self.order)
        return torch.cat([F.silu(x).unsqueeze(-1), splines], dim=-1)

    def lower_features(self, program: Lowering, x: Value) -> Value:
        inside = program.expression(SQUASHED[self.squashed], {}, x)
        splines = lower_splines(program, inside, self.knots, self.order)
        return program.join(program.expression("silu(x)", {}, x), splines)

    def weights(self) -> Tensor:
        scale = 1 if self.scale is None else self.scale.unsqueeze(2)
        return torch.cat([self.base.unsqueeze(2), scale * self.coefficients], dim=2)

    @torch.no_grad()
    def update_grid(self, x: Tensor, uniform: float = 0.02, margin: float = 0.01) -> None:
        """Moves the knots to the range of the frames x `[N, C]`, and keeps the edges' values there.

        The knots mix two grids: intervals with equal numbers of frames, and, by the share
        `uniform`, intervals of equal width. They end `margin` beyond the extreme frames.
        Coefficients are fitted by least squares at x.
        """
        inside = self.squash(x.double().cpu()).sort(0).values
        splines = b_splines(inside, self.knots.double().cpu(), self.order)
        coefficients = self.coefficients.double().cpu()
        values = torch.einsum("nig,oig->ino", splines, coefficients)

        low, high = inside[0] - margin, inside[-1] + margin
        step = (high - low) / self.grid
        even = low + step * torch.arange(self.grid + 1)[:, None]
        places = torch.linspace(0, len(inside) - 1, self.grid + 1).round().long()
        lines = uniform * even + (1 - uniform) * inside[places]
        lines[0], lines[-1] = low, high
        beyond = step * torch.arange(1, self.order + 1)[:, None]
        knots = torch.cat([low - beyond.flip(0), lines, high + beyond]).T

        splines = b_splines(inside, knots, self.order).transpose(0, 1)
        # splines without frames are undetermined: this driver returns the smallest coefficients
        fitted = torch.linalg.lstsq(splines, values, driver="gelsd").solution
        self.knots.copy_(knots)
        self.coefficients.copy_(fitted.permute(2, 0, 1))
