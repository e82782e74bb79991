"""The elementwise expressions that components declare in `pointwise`, computed by torch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from speechkit.errors import ComponentError
from speechkit.ops.expressions import names, parsed

FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "abs": torch.abs,
    "erf": torch.erf,
    "exp": torch.exp,
    "log": torch.log,
    "max": torch.maximum,
    "min": torch.minimum,
    "sigmoid": torch.sigmoid,
    "sqrt": torch.sqrt,
    "tanh": torch.tanh,
    "where": torch.where,
}
"""The torch function for each of `speechkit.ops.expressions.FUNCTIONS`."""


def evaluate(expression: str, x: Tensor) -> Tensor:
    """Such as `x * sigmoid(1.5 * x)` at every element.

    Raises ComponentError where it is not in the language that the kernels compile.
    """
    # only arithmetic, comparisons and known functions pass, which makes eval safe
    parsed(expression)
    for name in names(expression):
        raise ComponentError(f"{name!r} is not x or a number")
    functions = {name: _of_tensors(function, x) for name, function in FUNCTIONS.items()}
    y = eval(expression, {"__builtins__": {}}, {**functions, "x": x})
    return torch.as_tensor(y, dtype=x.dtype).expand_as(x)


def _of_tensors(function: Callable[..., Tensor], like: Tensor) -> Callable[..., Tensor]:
    """The function for numbers too."""

    def call(*args: Any) -> Tensor:
        tensors = (a if isinstance(a, Tensor) else like.new_tensor(a) for a in args)
        return function(*tensors)

    return call
