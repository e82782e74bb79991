"""A formula for a learned edge: the best fit among a few known functions."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

ONE = torch.ones(1, dtype=torch.float64)
NONE = torch.zeros(1, dtype=torch.float64)
SCALES = torch.linspace(0.25, 4, 16, dtype=torch.float64)
SHIFTS = torch.linspace(-4, 4, 33, dtype=torch.float64)
BOTH = torch.cat([SCALES, -SCALES])
FLAT = 1e-6
"""An edge whose values vary less is a constant; a smaller number is not written."""
GAIN = 0.001
"""How much more of the variance a less simple function must explain."""


class Form(NamedTuple):
    """A function of b x + c, and the values of b and c that give distinct functions."""

    text: str
    function: Callable[[Tensor], Tensor]
    scales: Tensor
    shifts: Tensor


FORMS = (
    Form("{}", lambda x: x, ONE, NONE),
    Form("({})^2", lambda x: x.square(), ONE, SHIFTS),
    Form("({})^3", lambda x: x.pow(3), ONE, SHIFTS),
    Form("|{}|", lambda x: x.abs(), ONE, SHIFTS),
    Form("max({}, 0)", lambda x: x.clamp(min=0), torch.cat([ONE, -ONE]), SHIFTS),
    Form("exp({})", lambda x: x.exp(), BOTH, NONE),
    Form("tanh({})", lambda x: x.tanh(), SCALES, SHIFTS),
    Form("sin({})", lambda x: x.sin(), SCALES, SHIFTS),
    Form("exp(-({})^2)", lambda x: (-x.square()).exp(), SCALES, SHIFTS),
)
"""The simplest first."""


class Fit(NamedTuple):
    """A formula in x, and the share of the variance that it explains, R²."""

    formula: str
    r2: float


def symbolic(x: Tensor, y: Tensor) -> Fit:
    """The best fit a · f(b x + c) + d to points x, y `[P]`; b and c are from a grid."""
    x, y = x.double().cpu(), y.double().cpu()
    if y.std() < FLAT:
        return Fit(f"{y.mean():.3g}", 1.0)
    best = Fit("", -1.0)
    for form in FORMS:
        inner = form.scales[:, None, None] * x + form.shifts[:, None]
        a, d, r2, place = _nearest_line(form.function(inner).flatten(0, 1), y)
        if r2 > best.r2 + GAIN:
            b, c = form.scales[place // len(form.shifts)], form.shifts[place % len(form.shifts)]
            of_x = "x" if b == 1 else f"{b:.3g}x"
            best = Fit(f"{a:.3g} {form.text.format(of_x + _added(float(c)))}{_added(d)}", r2)
    return best


def _nearest_line(f: Tensor, y: Tensor) -> tuple[float, float, float, int]:
    """Least squares y ≈ a f + d with each row of f `[S, P]`: a, d, R² and index of the best row."""
    off, y_off = f - f.mean(1, keepdim=True), y - y.mean()
    along, power = off @ y_off, off.square().sum(1).clamp(min=1e-12)
    r2, place = (along.square() / power / y_off.square().sum()).max(0)
    a = along[place] / power[place]
    return float(a), float(y.mean() - a * f[place].mean()), float(r2), int(place)


def _added(number: float) -> str:
    return f"{number:+.3g}" if abs(number) > FLAT else ""
