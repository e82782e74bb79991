"""Activations that a fused op can apply: a kind with a few numbers, or piecewise polynomials.

A plugin's module can be fused if its attribute `native` is an Activation. With an attribute
`expression`, kernels are compiled for it. Any other module runs after the op.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.ops.describes import describes

KINDS = ("none", "relu", "clamp", "silu", "sigmoid", "tanh", "gelu", "gelu_tanh", "pieces")
"""In the order of the C++ enumeration."""


@dataclass(frozen=True)
class Activation:
    """y = f(x) for one of KINDS: clamp (low, high) and silu (beta) have parameters.

    `pieces` holds ascending bounds, then for each piece between them three coefficients
    (c0, c1, c2) of c0 + c1 x + c2 x²: `Activation("pieces", (0.0,), ((0, 0.1, 0), (0, 1, 0)))`
    is a leaky ReLU. Kind "expression", which C++ does not know, is a `text` for
    `speechkit.ops.expressions` and the `module` that computes the same.
    """

    kind: str
    parameters: tuple[float, ...] = ()
    pieces: tuple[tuple[float, float, float], ...] = ()
    text: str = ""
    module: nn.Module | None = None

    @property
    def code(self) -> int:
        """Its number in C++."""
        return KINDS.index(self.kind)

    @property
    def numbers(self) -> list[float]:
        """Its parameters in the form for C++."""
        if self.kind != "pieces":
            return [*self.parameters, 0.0, 0.0][: max(2, len(self.parameters))]
        degrees = [max((n for n in (1, 2) if c[n]), default=0) for c in self.pieces]
        rows = [(float(d), *c) for d, c in zip(degrees, self.pieces, strict=True)]
        return [float(len(self.parameters)), *self.parameters, *chain.from_iterable(rows)]

    def __call__(self, x: Tensor) -> Tensor:
        """The same in torch."""
        if self.kind == "pieces":
            return self._polynomials(x)
        function = self.module if self.module else _FUNCTIONS[self.kind]
        y: Tensor = function(x, *self.parameters)
        return y

    def _polynomials(self, x: Tensor) -> Tensor:
        y = x
        for bound, c in zip((-math.inf, *self.parameters), self.pieces, strict=True):
            piece = torch.full_like(x, c[0])
            piece = piece + c[1] * x if c[1] or c[2] else piece
            piece = piece + c[2] * x * x if c[2] else piece
            y = torch.where(x >= bound, piece, y)
        return y


NONE = Activation("none")
_FUNCTIONS: dict[str, Any] = {
    "none": lambda x: x,
    "relu": torch.relu,
    "clamp": torch.clamp,
    "silu": lambda x, beta: x * torch.sigmoid(beta * x),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


def activation_of(module: nn.Module) -> Activation | None:
    """The Activation that equals a module, or None."""
    made = _KNOWN.get(type(module))
    if made:
        return made(module)
    declared = describes(module, "native")
    return module.native if declared else None  # type: ignore[return-value]


def expressed(module: nn.Module) -> Activation | None:
    """The Activation of a module with an `expression`, None if it has none or has parameters."""
    text = getattr(module, "expression", None) if describes(module, "expression") else None
    return Activation("expression", text=text, module=module) if text else None


# by exact type: a subclass may compute something else
_KNOWN: dict[type, Callable[[Any], Activation]] = {
    nn.ReLU: lambda m: Activation("relu"),
    nn.Hardtanh: lambda m: Activation("clamp", (float(m.min_val), float(m.max_val))),
    nn.SiLU: lambda m: Activation("silu", (1.0,)),
    nn.GELU: lambda m: Activation("gelu" if m.approximate == "none" else "gelu_tanh"),
    nn.Sigmoid: lambda m: Activation("sigmoid"),
    nn.Tanh: lambda m: Activation("tanh"),
    nn.LeakyReLU: lambda m: Activation(
        "pieces", (0.0,), ((0.0, float(m.negative_slope), 0.0), (0.0, 1.0, 0.0))
    ),
}


def expression(activation: Activation) -> str:
    """The expression that equals an activation."""
    if activation.kind == "pieces":
        return _pieces(activation)
    if activation.kind == "expression":
        return activation.text
    return _EXPRESSIONS[activation.kind].format(*activation.parameters)


_EXPRESSIONS = {
    "none": "x",
    "relu": "max(x, 0)",
    "clamp": "min(max(x, {0!r}), {1!r})",
    "silu": "x * sigmoid({0!r} * x)",
    "sigmoid": "sigmoid(x)",
    "tanh": "tanh(x)",
    "gelu": f"0.5 * x * (1 + erf({math.sqrt(0.5)!r} * x))",
    "gelu_tanh": f"0.5 * x * (1 + tanh({math.sqrt(2 / math.pi)!r} * (x + 0.044715 * x * x * x)))",
}


def _pieces(activation: Activation) -> str:
    """Selects the last piece whose bound is below x; NaN stays NaN."""
    text = "x"
    bounds = ("x == x", *(f"x >= {bound!r}" for bound in activation.parameters))
    for condition, (c0, c1, c2) in zip(bounds, activation.pieces, strict=True):
        # terms with coefficient 0 are left out, since 0 · infinity is NaN
        terms = [f"{c0!r}", f"{c1!r} * x" if c1 or c2 else "", f"{c2!r} * x * x" if c2 else ""]
        text = f"where({condition}, {' + '.join(filter(None, terms))}, {text})"
    return text
