"""The function of an activation: its expression with the numbers of a module."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from speechkit.errors import ComponentError
from speechkit.ops.bytecode import Code, assemble
from speechkit.ops.describes import describes
from speechkit.ops.expressions import (
    filled,
    is_gate,
    missing,
    names,
)
from speechkit.ops.torch_expressions import evaluate
from speechkit.plugins import Entry

KINDS = ("none", "relu", "program")
"""The kinds of activation of a fused op, in the order of the C++ enumeration."""


@dataclass(frozen=True)
class Activation:
    """y = f(x): an expression of `speechkit.ops.expressions`, "x * sigmoid(1.5 * x)".

    `vectors` are the names in it, each with a number for every channel. An expression of `a` and
    `b` is a gate's, whose inputs are the halves of the channels.
    """

    text: str = "x"
    vectors: tuple[tuple[str, tuple[float, ...]], ...] = ()

    @property
    def is_gate(self) -> bool:
        """True for a gate, which has half as many output as input channels."""
        return is_gate(self.text)

    @functools.cached_property
    def code(self) -> Code:
        """The expression as a program for C++; raises ComponentError if it is too long."""
        return assemble(self.text, dict(self.vectors))

    @property
    def fits(self) -> bool:
        """True if the program is not too long for C++."""
        try:
            return bool(self.code)
        except ComponentError:
            return False

    @functools.cached_property
    def kind(self) -> int:
        """The number of its kind in C++."""
        kind = "none" if self.code.is_identity else "relu" if self.code.is_relu else "program"
        return KINDS.index(kind)

    @property
    def is_program(self) -> bool:
        """True if C++ needs its `numbers`."""
        return KINDS[self.kind] == "program"

    def numbers(self, channels: int) -> NDArray[np.float32]:
        """The program packed for C++, for inputs with `channels` channels."""
        return self.code.packed(channels)

    def __call__(self, x: Tensor) -> Tensor:
        """The same in torch: `[B, C, T]` → the same."""
        return evaluate(self.text, x, {name: x.new_tensor(v) for name, v in self.vectors})


NONE = Activation()
CHANNELS = 8
"""The channels of an activation that is built only to read its expression."""


def formula_of(entry: Entry) -> str:
    """The formula of a component; for an activation without one, its expression."""
    component = entry.component
    if component.formula or entry.kind != "activation":
        return component.formula
    return statement(entry.make(CHANNELS, **component.example))


def statement(module: nn.Module) -> str:
    """The expression that a module computes in evaluation, "" if it has none."""
    known = _KNOWN.get(type(module))
    if known is not None:
        return known if isinstance(known, str) else known(module)
    return str(module.expression) if describes(module, "expression") else ""


def values_of(module: nn.Module, text: str) -> dict[str, Any]:
    """The attributes of a module that an expression names; ComponentError if it lacks one."""
    for name in names(text):
        if not hasattr(module, name):
            raise missing(text, name)
    return {name: getattr(module, name) for name in names(text)}


def activation_of(module: nn.Module) -> Activation | None:
    """The function of a module in evaluation, with its current numbers, or None if it states none.

    Raises ComponentError for an expression that is invalid or names what the module does not have.
    """
    text = statement(module)
    return with_numbers(module, text) if text else None


def with_numbers(module: nn.Module, text: str) -> Activation:
    """An expression whose names are attributes of a module, with their current numbers."""
    values = {
        name: value.detach().cpu().double().numpy() if isinstance(value, Tensor) else value
        for name, value in values_of(module, text).items()
    }
    return Activation(*filled(text, values))


# by exact type: a subclass may compute something else
_KNOWN: dict[type, str | Callable[[Any], str]] = {
    nn.Identity: "x",
    nn.ReLU: "relu(x)",
    nn.ReLU6: "min(max(x, 0), 6)",
    nn.Hardtanh: "min(max(x, min_val), max_val)",
    nn.LeakyReLU: "where(x > 0, x, negative_slope * x)",
    nn.PReLU: "where(x > 0, x, weight * x)",
    nn.SiLU: "silu(x)",
    nn.GELU: lambda m: "gelu(x)" if m.approximate == "none" else GELU_TANH,
    nn.Sigmoid: "sigmoid(x)",
    nn.Tanh: "tanh(x)",
    nn.ELU: "where(x > 0, x, alpha * expm1(min(x, 0)))",
    nn.CELU: "where(x > 0, x, alpha * expm1(min(x, 0) / alpha))",
    nn.SELU: "1.0507009873554804934193349852946"
    " * where(x > 0, x, 1.6732632423543772848170429916717 * expm1(min(x, 0)))",
    nn.Softplus: "softplus(beta * x) / beta",
    nn.Mish: "x * tanh(softplus(x))",
}
GELU_TANH = "0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x * x * x)))"
