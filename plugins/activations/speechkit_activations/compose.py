"""Activations composed of named functions by a formula.

A unit is `u1 binary u2`: two functions of x and a binary operation. In a second unit, after a
semicolon, the first function reads the output of the first unit: `sigmoid mul x; abs max tanh` is
max(|y|, tanh x), y = x · sigmoid(x).
Ramachandran et al., arXiv:1710.05941.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Unary = Callable[[Tensor, Tensor], Tensor]
Binary = Callable[[Tensor, Tensor, Tensor], Tensor]

UNARY: Mapping[str, Unary] = {
    "x": lambda x, b: x,
    "neg": lambda x, b: -x,
    "abs": lambda x, b: x.abs(),
    "square": lambda x, b: x * x,
    "cube": lambda x, b: x * x * x,
    "sqrt": lambda x, b: (x.abs() + 1e-6).sqrt(),
    "scale": lambda x, b: b * x,
    "shift": lambda x, b: x + b,
    "log": lambda x, b: (x.abs() + 1e-6).log(),
    "exp": lambda x, b: x.exp(),
    "sin": lambda x, b: x.sin(),
    "cos": lambda x, b: x.cos(),
    "sinh": lambda x, b: x.sinh(),
    "cosh": lambda x, b: x.cosh(),
    "tanh": lambda x, b: x.tanh(),
    "asinh": lambda x, b: x.asinh(),
    "atan": lambda x, b: x.atan(),
    "sinc": lambda x, b: torch.sinc(x / torch.pi),
    "relu": lambda x, b: x.clamp(min=0),
    "below": lambda x, b: x.clamp(max=0),
    "sigmoid": lambda x, b: x.sigmoid(),
    "softplus": lambda x, b: F.softplus(x),
    "bell": lambda x, b: (-x * x).exp(),
    "erf": lambda x, b: x.erf(),
    "const": lambda x, b: b.expand_as(x),
}
"""u(x, b); b is learned if the name is in STARTS."""

BINARY: Mapping[str, Binary] = {
    "add": lambda u, v, b: u + v,
    "sub": lambda u, v, b: u - v,
    "mul": lambda u, v, b: u * v,
    "div": lambda u, v, b: u / (v + 1e-6),
    "max": lambda u, v, b: torch.maximum(u, v),
    "min": lambda u, v, b: torch.minimum(u, v),
    "gate": lambda u, v, b: u.sigmoid() * v,
    "near": lambda u, v, b: (-b * (u - v).square()).exp(),
    "close": lambda u, v, b: (-b * (u - v).abs()).exp(),
    "mix": lambda u, v, b: b * u + (1 - b) * v,
}
"""Binary operations of u and v; b is learned if the name is in STARTS."""

STARTS = {"scale": 1.0, "shift": 0.0, "const": 1.0, "near": 1.0, "close": 1.0, "mix": 0.5}
"""The functions and operations with a learned number b, and its initial value."""

SMALL_UNARY = ("x", "relu", "sigmoid", "tanh", "sin", "abs")
SMALL_BINARY = ("mul", "max", "add")


class Composed(nn.Module):
    """The activation of a formula such as `x mul sigmoid`, with a learned number for each name in
    `STARTS`.

    Shape: `[B, C, T]` → the same. Ramachandran et al., arXiv:1710.05941.
    """

    undecayed = ("numbers",)

    def __init__(self, channels: int, formula: str = "x mul sigmoid") -> None:
        super().__init__()
        self.formula = formula
        self.units = [tuple(unit.split()) for unit in formula.split(";")]
        self.numbers = nn.ParameterDict()
        for index, unit in enumerate(self.units):
            known = [UNARY, BINARY, UNARY]
            if len(unit) != 3 or any(w not in k for w, k in zip(unit, known, strict=True)):
                raise ValueError(
                    f"formula={formula!r}: write 'u binary v', units with semicolons between; "
                    f"u and v from {', '.join(UNARY)}; binary from {', '.join(BINARY)}"
                )
            for place, word in enumerate(unit):
                if word in STARTS:
                    self.numbers[f"{index}_{place}"] = nn.Parameter(torch.tensor(STARTS[word]))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for index, (first, join, second) in enumerate(self.units):
            a, b, c = (self.number(index, place, x) for place in range(3))
            y = BINARY[join](UNARY[first](y, a), UNARY[second](x, c), b)
        return y

    def number(self, unit: int, place: int, x: Tensor) -> Tensor:
        """The learned number of a name; a placeholder for a name without one, which ignores it."""
        key = f"{unit}_{place}"
        return self.numbers[key].to(x.dtype) if key in self.numbers else x

    def extra_repr(self) -> str:
        return self.formula


def small_space() -> list[str]:
    """One unit of 6 unary and 3 binary functions, without mirror images: 57 formulas."""
    return [
        f"{u} {join} {v}"
        for join in SMALL_BINARY
        for i, u in enumerate(SMALL_UNARY)
        for v in SMALL_UNARY[i + (join == "max") :]
    ]
