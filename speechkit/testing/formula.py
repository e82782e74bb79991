"""The elementwise expressions that components declare in `pointwise`, computed by torch."""

import ast
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from speechkit.errors import ComponentError
from speechkit.ops.expressions import translated

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
"""What each of `speechkit.ops.expressions.FUNCTIONS` is in torch."""


def evaluate(expression: str, x: Tensor, parameters: Mapping[str, Any]) -> Tensor:
    """Such as `x * sigmoid(beta * x)` with the value of beta in `parameters`, at every element.

    ComponentError where it is not in the language that the kernels compile.
    """
    try:
        tree = ast.parse(expression, mode="eval")
    except SyntaxError as error:
        raise ComponentError(f"expression {expression!r}: {error.msg}") from error
    plain = ast.unparse(_Numbers(parameters).visit(tree))
    # refuses all but arithmetic, comparisons and its functions, which makes eval safe
    translated(plain)
    functions = {name: _of_tensors(function, x) for name, function in FUNCTIONS.items()}
    y = eval(plain, {"__builtins__": {}}, {**functions, "x": x})
    return torch.as_tensor(y, dtype=x.dtype).expand_as(x)


class _Numbers(ast.NodeTransformer):
    """Puts numbers in the place of the parameters' names."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self.parameters = parameters

    def visit_Name(self, node: ast.Name) -> ast.expr:
        value = self.parameters.get(node.id)
        return ast.Constant(float(value)) if isinstance(value, int | float) else node


def _of_tensors(function: Callable[..., Tensor], like: Tensor) -> Callable[..., Tensor]:
    """The function for numbers too."""

    def call(*args: Any) -> Tensor:
        tensors = (a if isinstance(a, Tensor) else like.new_tensor(a) for a in args)
        return function(*tensors)

    return call
