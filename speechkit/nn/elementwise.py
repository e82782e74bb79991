"""A module that computes its expression at every element."""

from typing import Any

from torch import Tensor, nn

from speechkit.ops.torch_expressions import function_of


class Elementwise(nn.Module):
    """y = f(x) at every element; f is the attribute `expression`, such as "x * sigmoid(beta * x)".

    Names in it are attributes of the module: numbers, or parameters and buffers with one number, or
    with one for each channel. `speechkit.ops.expressions` has the language. Shape: x `[B, C, T]` →
    the same, or `[B, 2C, T]` → `[B, C, T]` for an expression of a gate's halves `a` and `b`.
    Raises ComponentError for an invalid expression where it is set.
    """

    expression: str

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        # parsed here, since torch.compile cannot trace the parser
        if isinstance(text := vars(cls).get("expression"), str):
            function_of(text)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "expression":
            function_of(value)
        super().__setattr__(name, value)

    def forward(self, x: Tensor) -> Tensor:
        function = function_of(self.expression)
        return function(x, {name: getattr(self, name) for name in function.names})
