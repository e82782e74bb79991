"""Basis functions of the edges, and functions that map a number into their range."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from speechkit.errors import ComponentError

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value


def _clip(x: Tensor) -> Tensor:
    return x.clamp(-1, 1)


def _same(x: Tensor) -> Tensor:
    return x


_SQUASH: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "clip": _clip, "none": _same}


SQUASHED = {"tanh": "tanh(x)", "clip": "min(max(x, -1), 1)", "none": "x"}
"""The same as expressions of x."""


def squashing(name: str, *allowed: str) -> Callable[[Tensor], Tensor]:
    """The function into [−1, 1] with this name; `allowed` are those that the layer can use."""
    if name not in allowed:
        raise ComponentError(f"squash={name!r}: give one of {', '.join(allowed)}")
    return _SQUASH[name]


def chebyshev(x: Tensor, degree: int) -> Tensor:
    """T_0(x) … T_degree(x), `[...]` → `[..., degree + 1]`, for x in [−1, 1].

    T_n = 2 x T_{n−1} − T_{n−2}: unlike cos(n acos x), its gradient is finite at ±1.
    """
    terms = [torch.ones_like(x), x]
    for _ in range(degree - 1):
        terms.append(2 * x * terms[-1] - terms[-2])
    return torch.stack(terms[: degree + 1], dim=-1)


def lower_chebyshev(program: Lowering, x: Value, degree: int) -> Value:
    """Adds `chebyshev` to a native program, T_n(x) = cos(n acos x): `[(degree + 1) · C]`."""
    angle = program.expression("1.5707963267948966 - asin(x)", {}, x)
    n = torch.arange(degree + 1).repeat_interleave(x.channels)
    return program.expression("cos(n * x)", {"n": n}, program.repeat(angle, degree + 1))


def chebyshev_sum(x: Tensor, coefficients: Tensor) -> Tensor:
    """Σ_n c_n T_n(x) by Clenshaw's recurrence, `[..., C]` with c `[C, degree + 1]`."""
    later, last = torch.zeros_like(x), torch.zeros_like(x)
    for c in coefficients[:, 1:].flip(1).unbind(1):
        later, last = c + 2 * x * later - last, later
    return coefficients[:, 0] + x * later - last


def radial(x: Tensor, places: Tensor) -> Tensor:
    """exp(−((x − p) / h)²) for G centres p at distances h: `[...]` → `[..., G]`."""
    return (-((x.unsqueeze(-1) - places) / (places[1] - places[0])).square()).exp()


def lower_radial(program: Lowering, x: Value, places: Tensor) -> Value:
    """Adds `radial` to a native program: `[G · C]`."""
    values = {"place": places.repeat_interleave(x.channels), "width": places[1] - places[0]}
    wide = program.repeat(x, len(places))
    return program.expression("exp(-(((x - place) / width) ** 2))", values, wide)


def even_knots(grid: int, order: int) -> Tensor:
    """Ascending knots of `grid` equal intervals of [−1, 1], and `order` more beyond each end."""
    return torch.arange(-order, grid + order + 1) * (2 / grid) - 1


def b_splines(x: Tensor, knots: Tensor, order: int) -> Tensor:
    """The B-splines of degree `order` of each channel (Cox and de Boor).

    Shape: x `[..., C]`, ascending knots `[C, G + order + 1]` → `[..., C, G]`. Their sum is 1
    between knot `order` and knot G; each is 0 outside its own order + 2 knots.
    """
    x = x.unsqueeze(-1)
    bases = ((x >= knots[:, :-1]) & (x < knots[:, 1:])).to(x.dtype)
    for k in range(1, order + 1):
        # the interval between equal knots is empty
        width = knots[:, k:] - knots[:, :-k]
        inverse = torch.where(width > 0, 1 / width.clamp(min=torch.finfo(x.dtype).tiny), 0)
        rising = (x - knots[:, : -k - 1]) * inverse[:, :-1]
        falling = (knots[:, k + 1 :] - x) * inverse[:, 1:]
        bases = rising * bases[..., :-1] + falling * bases[..., 1:]
    return bases


def lower_splines(program: Lowering, x: Value, knots: Tensor, order: int) -> Value:
    """Adds `b_splines` to a native program: `[G · C]`."""
    lines = knots.detach().expand(x.channels, -1).t()
    count = len(lines) - 1
    wide = program.repeat(x, count)
    ends = {"low": lines[:-1].flatten(), "high": lines[1:].flatten()}
    y = program.expression("where(x < low, 0, where(x < high, 1, 0))", ends, wide)
    for k in range(1, order + 1):
        width = lines[k:] - lines[:-k]
        inverse = torch.where(width > 0, 1 / width.clamp(min=1e-30), 0)
        # there are k functions fewer; the factors of those left over are 0
        rising = _lines(inverse[:-1], -lines[: -k - 1] * inverse[:-1], count)
        falling = _lines(-inverse[1:], lines[k + 1 :] * inverse[1:], count)
        after = program.part(y, x.channels, y.channels)
        y = program.added(
            program.expression("(a * slope + start) * b", rising, wide, y),
            program.expression("(a * slope + start) * b", falling, wide, after),
        )
    return program.part(y, 0, (count - order) * x.channels)


def _lines(slope: Tensor, start: Tensor, count: int) -> dict[str, Tensor]:
    """The slopes and starts of lines `[G, C]`, with zeros for up to `count` of them."""
    rows = 0, 0, 0, count - len(slope)
    return {"slope": F.pad(slope, rows).flatten(), "start": F.pad(start, rows).flatten()}


def phases(grid: int, order: int) -> tuple[Tensor, Tensor]:
    """The ends of the grid + order overlapping bumps on [0, 1]: j/g and j/g + (k + 1)/g."""
    low = torch.arange(-order, grid) / grid
    return low, low + (order + 1) / grid
