"""Converts activations to expressions, and expressions to Triton functions for the kernels.

An expression is arithmetic over `x` and numbers, with comparisons inside `where` and the functions
of FUNCTIONS: "x * sigmoid(1.5 * x)". It is the language of a component's `pointwise`.
"""

import ast
import functools
import linecache
import math
from typing import Any

from speechkit.component import did_you_mean
from speechkit.errors import ComponentError
from speechkit.ops.activation import Activation

FUNCTIONS = {
    "abs": "tl.abs(a)",
    "erf": "tl.erf(a)",
    "exp": "tl.exp(a)",
    "log": "tl.log(a)",
    "max": "tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)",
    "min": "tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)",
    "sigmoid": "tl.sigmoid(a)",
    "sqrt": "tl.sqrt(a)",
    "tanh": "(2.0 * tl.sigmoid(2.0 * a) - 1.0)",
    "where": "tl.where(a, b, c)",
}
"""Each function in Triton, with arguments a, b and c."""
_ALLOWED = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.USub, ast.UAdd, ast.Load)
_COMPARISONS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)


def expression(activation: Activation) -> str:
    """The expression that equals an activation."""
    if activation.kind == "pieces":
        return _pieces(activation)
    if activation.kind == "expression":
        return activation.text
    return _KINDS[activation.kind].format(*activation.parameters)


_KINDS = {
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


def translated(text: str) -> str:
    """An expression in Triton; raises ComponentError for an invalid one."""
    try:
        return ast.unparse(_Translator().visit(ast.parse(text, mode="eval")))
    except SyntaxError as error:
        raise ComponentError(f"expression {text!r}: {error}; write it as in Python") from None


class _Translator(ast.NodeTransformer):
    """Checks each node and replaces functions by Triton's."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id != "x":
            raise SyntaxError(f"{node.id!r} is not x or a number")
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if not isinstance(node.value, int | float):
            raise SyntaxError(f"{node.value!r} is not a number")
        return ast.Constant(float(node.value))

    def visit_Call(self, node: ast.Call) -> ast.expr:
        name = node.func.id if isinstance(node.func, ast.Name) else ast.unparse(node.func)
        if name not in FUNCTIONS:
            raise SyntaxError(f"there is no {name}. {did_you_mean(name, FUNCTIONS)}")
        made = ast.parse(FUNCTIONS[name], mode="eval").body
        wanted = sorted({n.id for n in ast.walk(made) if isinstance(n, ast.Name)} & set("abc"))
        if len(node.args) != len(wanted) or node.keywords:
            raise SyntaxError(f"{name} takes {len(wanted)} arguments, not {len(node.args)}")
        given = dict(zip(wanted, map(self.visit, node.args), strict=True))
        filled: ast.expr = _Filled(given).visit(made)
        return filled

    def generic_visit(self, node: ast.AST) -> ast.AST:
        kinds = ast.Expression, ast.BinOp, ast.UnaryOp, ast.Compare, *_ALLOWED, *_COMPARISONS
        if not isinstance(node, kinds):
            raise SyntaxError(f"{type(node).__name__} has no place in it")
        return super().generic_visit(node)


class _Filled(ast.NodeTransformer):
    """Replaces names by arguments."""

    def __init__(self, given: dict[str, ast.expr]) -> None:
        self.given = given

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.given.get(node.id, node)


@functools.cache
def compiled(text: str) -> Any:
    """The Triton function `f(x)` of an expression, for a kernel to take as a constant."""
    import triton
    import triton.language as tl

    source = f"def f(x):\n    return {translated(text)}\n"
    # triton reads the source of a function from linecache, like tracebacks do
    name = f"<expression {text}>"
    linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name
    scope: dict[str, Any] = {"tl": tl, "__name__": __name__}
    exec(compile(source, name, "exec"), scope)
    return triton.jit(scope["f"])
