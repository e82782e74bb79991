"""Computes expressions in torch, with gradients."""

import ast
import builtins
import functools
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from speechkit.ops.expressions import FUNCTIONS, NUMBERS, Graph, is_gate, missing, names, parsed


@dataclass(frozen=True)
class Function:
    """An expression in torch, and the names of its numbers."""

    function: Callable[..., float | Tensor]
    names: list[str]
    is_gate: bool

    def __call__(self, x: Tensor, values: Mapping[str, float | Tensor]) -> Tensor:
        """f of every element of x `[B, C, T]`; the result of a gate has half the channels.

        A vector among the values is `[C]`, a matrix `[n, C]`.
        """
        given = {name: _beside(values[name], x) for name in self.names}
        inputs = x.chunk(2, dim=1) if self.is_gate else (x,)
        y = self.function(functools.partial(_where, x), *inputs, **given)
        return y.expand_as(inputs[0]) if isinstance(y, Tensor) else torch.full_like(inputs[0], y)


def evaluate(text: str, x: Tensor, values: Mapping[str, float | Tensor]) -> Tensor:
    """An expression at every element; ComponentError if it is invalid or a value is missing."""
    function = function_of(text)
    for name in function.names:
        if name not in values:
            raise missing(text, name)
    return function(x, values)


def _beside(value: float | Tensor, x: Tensor) -> float | Tensor:
    """A number or vector in a shape and type that broadcast with frames `[B, C, T]`."""
    if not isinstance(value, Tensor):
        return value
    value = value.to(x.dtype)
    return value[..., None] if value.ndim else value


def _where(like: Tensor, condition: bool | Tensor, a: float | Tensor, b: float | Tensor) -> Any:
    if not isinstance(condition, Tensor):
        return a if condition else b
    if not isinstance(a, Tensor) and not isinstance(b, Tensor):
        # with two numbers the result would have torch's default type
        a = like.new_tensor(a)
    return torch.where(condition, a, b)


def _of_tensors(name: str, function: Callable[..., Tensor]) -> Callable[..., float | Tensor]:
    """The function for numbers too."""

    def call(*args: float | Tensor) -> float | Tensor:
        if any(isinstance(a, Tensor) for a in args):
            return function(*args)
        return _number(name, *args)

    return call


@functools.cache
def _number(name: str, *args: float) -> float:
    """A function of numbers."""
    values = dict(zip(("u", "v"), args, strict=False))
    graph = Graph(f"{name}({', '.join(values)})", values)
    return float(graph.numbers[graph.result])


def _largest(a: float | Tensor, b: float | Tensor) -> Tensor:
    if not isinstance(a, Tensor):
        a, b = b, a
    assert isinstance(a, Tensor)
    return torch.maximum(a, b) if isinstance(b, Tensor) else a.clamp(min=b)


def _smallest(a: float | Tensor, b: float | Tensor) -> Tensor:
    if not isinstance(a, Tensor):
        a, b = b, a
    assert isinstance(a, Tensor)
    return torch.minimum(a, b) if isinstance(b, Tensor) else a.clamp(max=b)


def _power(a: float | Tensor, b: float | Tensor) -> Tensor:
    if isinstance(a, Tensor):
        return torch.pow(torch.where(a < 0, torch.nan, a), b)
    assert isinstance(b, Tensor)
    return torch.pow(a, b)


_TORCH: dict[str, Callable[..., Any]] = {
    # torch gives 0 for NaN
    "sign": lambda a: torch.where(a == a, a.sign(), a),
    "gelu": F.gelu,
    "silu": F.silu,
    "softplus": F.softplus,
    "sinc": lambda a: torch.sinc(a / torch.pi),
    "max": _largest,
    "min": _smallest,
    "pow": _power,
}
# only checked syntax is evaluated; torch may import something in a function, which needs builtins
_SCOPE: dict[str, Any] = {"__builtins__": builtins, **NUMBERS} | {
    name: _of_tensors(name, _TORCH.get(name) or getattr(torch, name))
    for name in FUNCTIONS
    if name != "where"
}
_made: dict[str, Function] = {}


def function_of(text: str) -> Function:
    """The torch function of an expression; raises ComponentError for an invalid one."""
    return _made.get(text) or _make(text)


def _shared(text: str) -> str:
    """The expression in Python, with each repeated part computed once, where it is first needed."""
    body = ast.parse(text, mode="eval").body
    keys = {
        id(node): ast.dump(node)
        for node in ast.walk(body)
        if isinstance(node, ast.BinOp | ast.UnaryOp | ast.Call)
    }
    counts = Counter(keys.values())
    given: dict[str, str] = {}

    class Sharer(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> ast.AST:
            key = keys.get(id(node), "")
            if counts[key] < 2:
                return self.generic_visit(node)
            if key in given:
                return ast.Name(given[key])
            # the parts are visited in the order in which they are computed
            value = self.generic_visit(node)
            name = given[key] = f"part_{len(given)}"
            return ast.NamedExpr(ast.Name(name), value)  # type: ignore[arg-type]

    return ast.unparse(Sharer().visit(body))


def _make(text: str) -> Function:
    parsed(text)
    body, wanted = _shared(text), names(text)
    arguments = ", ".join(("where", *(("a", "b") if is_gate(text) else ("x",)), *wanted))
    # only arithmetic, comparisons and known functions are parsed, which makes eval safe
    made = eval(f"lambda {arguments}: {body}", dict(_SCOPE))
    return _made.setdefault(text, Function(made, wanted, is_gate(text)))
