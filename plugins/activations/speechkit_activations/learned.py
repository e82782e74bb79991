"""Piecewise linear functions whose slopes are learned. Shape of all: `[B, C, T]` → the same."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.ops.activation import with_numbers

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value

LEVELS = {"relu": (0.0, 1.0), "identity": (1.0, 1.0), "leaky": (0.01, 1.0)}
"""The initial factors of x below and above zero."""
MOST_KNOTS = 64
"""The most knots of an expression."""


class PReLU(nn.PReLU):
    """y = max(x, 0) + a · min(x, 0), with one a for each channel or for the layer.

    In the paper a starts at 0.25 and has no weight decay, which would move it towards ReLU. He et
    al., arXiv:1502.01852; one such unit computes XOR: arXiv:2409.10821.
    """

    undecayed = ("weight",)
    expression = "where(x > 0, x, weight * x)"

    def __init__(self, channels: int, init: float = 0.25, per_channel: bool = True) -> None:
        super().__init__(channels if per_channel else 1, init)
        self.init = init

    def forward(self, x: Tensor) -> Tensor:
        return F.prelu(x, self.weight.to(x.dtype))


class Tmaf(nn.Module):
    """y = α(x) · x; α of each channel is a step function with learned levels.

        α(s) = t_0 + Σ_j (t_j − t_{j−1}) · [s > s_j],  j = 1 … knots

    The knots s_j are evenly spaced between lo and hi, in units of x. The levels start as `init`:
    relu, identity or leaky (0.01). With `share="layer"` all channels share one α. With train_knots
    the backward pass uses a sigmoid of the given width for each step, so that knots are learned
    too; the forward pass is the same. y(0) = 0 always. The range of the knots is a choice of this
    package. Liu et al., arXiv:2109.09948.
    """

    undecayed: tuple[str, ...] = ("levels", "knots")

    knots: Tensor

    def __init__(
        self,
        channels: int,
        knots: int = 1,
        lo: float = -1.0,
        hi: float = 1.0,
        init: str = "relu",
        share: str = "channel",
        train_knots: bool = False,
        width: float = 0.1,
    ) -> None:
        super().__init__()
        at = torch.linspace(lo, hi, knots + 2)[1:-1].round(decimals=6)
        if init not in LEVELS:
            raise ValueError(f"init={init!r}: give one of {', '.join(LEVELS)}")
        if share not in ("channel", "layer"):
            raise ValueError(f"share={share!r}: give channel or layer")
        if init != "identity" and not (at == 0).any():
            raise ValueError(
                f"knots={knots} between {lo:g} and {hi:g} leave out 0, where init={init} bends; "
                "give an odd number and hi=-lo, or init=identity"
            )
        below, above = LEVELS[init]
        levels = torch.cat([torch.tensor([below]), torch.where(at < 0, below, above)])
        rows = channels if share == "channel" else 1
        self.levels = nn.Parameter(levels[:, None].repeat(1, rows))
        self.width = width
        moving = at[:, None].repeat(1, rows)
        if train_knots:
            self.knots = nn.Parameter(moving)
        else:
            self.register_buffer("knots", moving)

    def forward(self, x: Tensor) -> Tensor:
        return self.multiplier(x, self.levels) * x

    @property
    def expression(self) -> str:
        """The function; "" for more knots than a program takes."""
        return self.stepped("levels")

    def stepped(self, levels: str) -> str:
        """The multiplier with the levels of this name, times x."""
        rises = (
            f" + where(x > knots[{j}], {levels}[{j + 1}] - {levels}[{j}], 0)"
            for j in range(len(self.knots))
        )
        return f"({levels}[0]{''.join(rises)}) * x" if len(self.knots) <= MOST_KNOTS else ""

    def multiplier(self, x: Tensor, levels: Tensor) -> Tensor:
        """α(x) `[B, C, T]` for levels `[knots + 1, C]`."""
        levels = levels.to(x.dtype)[:, :, None]
        alpha = levels[0]
        for knot, rise in zip(self.knots.to(x.dtype)[:, :, None], levels.diff(dim=0), strict=True):
            step = (x > knot).to(x.dtype)
            if self.knots.requires_grad:
                smooth = torch.sigmoid((x.detach() - knot) / self.width)
                step = step + (smooth - smooth.detach())
            alpha = alpha + rise * step
        return alpha


class TmafTri(Tmaf):
    """y_i = α_i(x_i) x_i + β_i(x_{i−1}) x_{i−1} + γ_i(x_{i+1}) x_{i+1} over channels i.

    α is that of `Tmaf`. β and γ are step functions with the same knots; their levels start at 0.
    Channels before the first and after the last are 0. Liu et al., arXiv:2109.09948.
    """

    undecayed = ("levels", "from_below", "from_above")

    def __init__(
        self, channels: int, knots: int = 1, lo: float = -1.0, hi: float = 1.0, init: str = "relu"
    ) -> None:
        super().__init__(channels, knots, lo, hi, init)
        self.from_below = nn.Parameter(torch.zeros(knots + 1, channels))
        self.from_above = nn.Parameter(torch.zeros(knots + 1, channels))

    def forward(self, x: Tensor) -> Tensor:
        edge = torch.zeros_like(x[:, :1])
        below = torch.cat([edge, x[:, :-1]], dim=1)
        above = torch.cat([x[:, 1:], edge], dim=1)
        y = super().forward(x)
        y = y + self.multiplier(below, self.from_below) * below
        return y + self.multiplier(above, self.from_above) * above

    def lower(self, program: Lowering, x: Value) -> Value:
        last = x.channels - 1
        if not last or len(self.knots) > MOST_KNOTS:
            program.refuse("no native tmaf_tri of one channel or many knots")
        zero = program.part(program.part(x, last, 2), 1, 1)
        below, above = program.join(zero, program.part(x, 0, last)), program.part(x, 1, last + 1)
        neighbours = {"levels": x, "from_below": below, "from_above": above}
        return reduce(
            program.added,
            (
                program.activate(value, with_numbers(self, self.stepped(name)))
                for name, value in neighbours.items()
            ),
        )
