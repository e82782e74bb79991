"""Activations composed of named functions by a formula.

A unit is `u1 binary u2`: two functions of x and a binary operation. In a second unit, after a
semicolon, the first function reads the output of the first unit: `sigmoid mul x; abs max tanh` is
max(|y|, tanh x), y = x · sigmoid(x).
Ramachandran et al., arXiv:1710.05941.
"""

import torch
from torch import Tensor, nn

from speechkit.nn import Elementwise

UNARY = {
    "x": "{u}",
    "neg": "-{u}",
    "abs": "abs({u})",
    "square": "{u} ** 2",
    "cube": "{u} ** 3",
    "sqrt": "sqrt(abs({u}) + 1e-6)",
    "scale": "{b} * {u}",
    "shift": "{u} + {b}",
    "log": "log(abs({u}) + 1e-6)",
    "exp": "exp({u})",
    "sin": "sin({u})",
    "cos": "cos({u})",
    "sinh": "sinh({u})",
    "cosh": "cosh({u})",
    "tanh": "tanh({u})",
    "asinh": "asinh({u})",
    "atan": "atan({u})",
    "sinc": "sinc({u})",
    "relu": "relu({u})",
    "below": "min({u}, 0)",
    "sigmoid": "sigmoid({u})",
    "softplus": "softplus({u})",
    "bell": "exp(-({u} ** 2))",
    "erf": "erf({u})",
    "const": "{b}",
}
"""Functions of u as expressions; `{b}` is learned if the name is in STARTS."""

BINARY = {
    "add": "{u} + {v}",
    "sub": "{u} - {v}",
    "mul": "{u} * {v}",
    "div": "{u} / ({v} + 1e-6)",
    "max": "max({u}, {v})",
    "min": "min({u}, {v})",
    "gate": "sigmoid({u}) * {v}",
    "near": "exp(-{b} * ({u} - {v}) ** 2)",
    "close": "exp(-{b} * abs({u} - {v}))",
    "mix": "{b} * {u} + (1 - {b}) * {v}",
}
"""Operations of u and v as expressions; b is learned if the name is in STARTS."""

STARTS = {"scale": 1.0, "shift": 0.0, "const": 1.0, "near": 1.0, "close": 1.0, "mix": 0.5}
"""The functions and operations with a learned number b, and its initial value."""

SMALL_UNARY = ("x", "relu", "sigmoid", "tanh", "sin", "abs")
SMALL_BINARY = ("mul", "max", "add")


class Composed(Elementwise):
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
        self.expression = self._expression()

    @property
    def learned(self) -> Tensor:
        """The learned numbers in the order of the formula."""
        return torch.stack(list(self.numbers.values()))

    def _expression(self) -> str:
        known, y = list(self.numbers), "x"
        for index, (first, join, second) in enumerate(self.units):
            names = (f"{index}_{place}" for place in range(3))
            a, b, c = (f"learned[{known.index(n)}]" if n in known else "" for n in names)
            u, v = UNARY[first].format(u=f"({y})", b=a), UNARY[second].format(u="x", b=c)
            y = BINARY[join].format(u=f"({u})", v=f"({v})", b=b)
        return y

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
