"""The language in which an activation states its function, and the graph that kernels run.

An expression is arithmetic over `x`, numbers and names, with comparisons inside `where` and the
functions of FUNCTIONS: "x * sigmoid(beta * x)". `pi` is π. Another name is a number, or a vector
with a number for each channel; `levels[2]` is an element of a vector or a row of a matrix. `**`
takes a whole number from 0 up. An expression without `x` is one of two inputs `a` and `b`, such as
the halves of a gate's channels: "sigmoid(a) * b".
"""

import ast
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechkit.component import did_you_mean
from speechkit.errors import ComponentError
from speechkit.limits import MAX_EXPRESSION_CHARACTERS, MAX_EXPRESSION_NODES

OPERATIONS: dict[str, Callable[..., Any]] = {
    "copy": lambda a: a,
    "negative": np.negative,
    "abs": np.abs,
    "sign": np.sign,
    "floor": np.floor,
    "round": np.round,
    "sqrt": np.sqrt,
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sigmoid": lambda a: np.exp(-np.logaddexp(0, -a)),
    "tanh": np.tanh,
    "erf": np.vectorize(math.erf, otypes=[float]),
    "sin": np.sin,
    "cos": np.cos,
    "atan": np.arctan,
    "asin": np.arcsin,
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "max": np.maximum,
    "min": np.minimum,
    "pow": lambda a, b: np.where((a < 0) & (b != 0), np.nan, np.abs(a) ** b),
    "less": np.less,
    "less_equal": np.less_equal,
    "equal": np.equal,
    "not_equal": np.not_equal,
    "multiply_add": lambda a, b, c: a * b + c,
    "where": np.where,
}
"""The operations of a graph, in the order of the C++ enumeration, and each in numpy."""

DEFINITIONS = {
    "asinh": "sign(a) * where(abs(a) > 1e9, log(abs(a)) + log(2),"
    " log1p(abs(a) + a * a / (1 + sqrt(a * a + 1))))",
    "ceil": "-floor(-a)",
    "cosh": "(exp(a) + exp(-a)) / 2",
    "gelu": "0.5 * a * (1 + erf(a / sqrt(2)))",
    "relu": "max(a, 0)",
    "silu": "a * sigmoid(a)",
    "sinc": "where(a == 0, 1, sin(a) / a)",
    "sinh": "(expm1(a) - expm1(-a)) / 2",
    "softplus": "max(a, 0) + log1p(exp(-abs(a)))",
}
"""Functions that are made of the others."""

_UNARY = (
    *("abs", "sign", "floor", "round", "sqrt", "exp", "expm1", "log", "log1p", "sigmoid", "tanh"),
    *("erf", "sin", "cos", "atan", "asin"),
)
FUNCTIONS = {
    **dict.fromkeys(sorted([*_UNARY, *DEFINITIONS]), 1),
    "max": 2,
    "min": 2,
    "pow": 2,
    "where": 3,
}
"""The functions of the language and how many arguments they take; pow(a, b) is NaN for a < 0."""
_ARITHMETIC = {
    "Add": "add",
    "Sub": "subtract",
    "Mult": "multiply",
    "Div": "divide",
    "USub": "negative",
    "UAdd": "copy",
}
"""The operation of each of Python's operators."""
_COMPARED = {
    "Lt": ("less", False),
    "LtE": ("less_equal", False),
    "Gt": ("less", True),
    "GtE": ("less_equal", True),
    "Eq": ("equal", False),
    "NotEq": ("not_equal", False),
}
"""The operation of a comparison, and whether its sides are swapped."""
NUMBERS = {"pi": math.pi}
"""Names that need no value."""
HIGHEST_POWER = 64
"""The highest whole exponent of `**`, which is multiplied out."""
DEEPEST = 128
"""The deepest nesting of operations; functions of Python's library recurse over them."""


@functools.lru_cache(maxsize=4096)
def parsed(text: str) -> ast.expr:
    """The syntax tree of an expression; raises ComponentError if it is invalid.

    The tree is shared between calls and must not be changed.
    """
    if len(text) > MAX_EXPRESSION_CHARACTERS:
        raise ComponentError(
            f"an expression has {len(text)} characters; it takes {MAX_EXPRESSION_CHARACTERS}"
        )
    try:
        body = ast.parse(text, mode="eval").body
        _check(body)
    except SyntaxError as error:
        raise ComponentError(
            f"expression {_short(text)!r}: {error.msg}; write it as in Python"
        ) from None
    except (RecursionError, ValueError, MemoryError):
        raise ComponentError(f"expression {_short(text)!r}: it is nested too deeply") from None
    return body


def names(text: str) -> list[str]:
    """The names of its numbers and vectors, in order."""
    return [name for name in _names(parsed(text)) if name not in _inputs(text)]


def missing(text: str, name: str) -> ComponentError:
    """The error about a name without a value."""
    return ComponentError(
        f"expression {_short(text)!r}: {name!r} is not x or a number; give the module an "
        f"attribute {name!r}"
    )


def is_gate(text: str) -> bool:
    """True if it has two inputs `a` and `b` instead of `x`."""
    return _inputs(text) != ("x",)


def _inputs(text: str) -> tuple[str, ...]:
    found = _names(parsed(text))
    return ("a", "b") if "x" not in found and {"a", "b"} & set(found) else ("x",)


def filled(
    text: str, values: Mapping[str, Any]
) -> tuple[str, tuple[tuple[str, tuple[float, ...]], ...]]:
    """The expression with its numbers in place of their names, and the vectors that are left.

    A row `levels[2]` becomes a vector `levels_2`. Raises ComponentError for a name without a value.
    """
    vectors: dict[str, tuple[float, ...]] = {}

    class Filler(ast.NodeTransformer):
        def visit_Call(self, node: ast.Call) -> ast.expr:
            given: list[ast.expr] = [self.visit(argument) for argument in node.args]
            return ast.Call(node.func, given, [])

        def visit_Name(self, node: ast.Name) -> ast.expr:
            return node if node.id in (*inputs, *NUMBERS) else self.value(node, node.id)

        def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
            row = node.slice.value  # type: ignore[attr-defined]
            return self.value(node, node.value.id, row)  # type: ignore[attr-defined]

        def value(self, node: ast.expr, name: str, row: int | None = None) -> ast.expr:
            value = _value(text, values, name, row)
            if isinstance(value, float):
                # Python has no text for a number that is not a number
                return _body("1e999 - 1e999") if math.isnan(value) else ast.Constant(value)
            name = name if row is None else f"{name}_{row}"
            vectors[name] = tuple(value.tolist())
            return ast.Name(name)

    inputs = _inputs(text)
    tree = Filler().visit(ast.parse(text, mode="eval"))
    return ast.unparse(tree), tuple(vectors.items())


@dataclass
class Graph:
    """An expression as a list of operations, in which equal operations occur once.

    `nodes` are pairs of an operation and its operands, the indices of earlier nodes. `x` or `a` is
    the operation "first", `b` is "second", and a "number" has its value in `numbers`: a float, or
    an array `[C]`. What depends on numbers alone is computed in float64. Functions that are not in
    `own` are replaced by their definitions. `values` are the numbers of the names, in any form that
    numpy reads. Raises ComponentError for an invalid expression and for a name without a value.
    """

    text: str
    values: Mapping[str, Any] = field(default_factory=dict)
    own: frozenset[str] = frozenset(OPERATIONS)
    definitions: Mapping[str, str] = field(default_factory=lambda: DEFINITIONS)
    nodes: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    numbers: dict[int, float | NDArray[np.float64]] = field(default_factory=dict)
    result: int = 0
    _known: dict[Any, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        operations = zip(_inputs(self.text), ("first", "second"), strict=False)
        scope = {name: self._node(operation, ()) for name, operation in operations}
        self.result = self._visit(parsed(self.text), scope)

    def used(self) -> list[int]:
        """The nodes that the result needs, in order."""
        needed = {self.result}
        for index in range(self.result, -1, -1):
            if index in needed:
                needed.update(self.nodes[index][1])
        return sorted(needed)

    def _visit(self, node: ast.expr, scope: Mapping[str, int]) -> int:
        match node:
            case ast.Constant():
                return self._number(float(node.value))  # type: ignore[arg-type]
            case ast.Name():
                if node.id in NUMBERS:
                    return self._number(NUMBERS[node.id])
                return scope[node.id] if node.id in scope else self._named(node.id)
            case ast.Subscript():
                return self._named(node.value.id, node.slice.value)  # type: ignore[attr-defined]
            case ast.UnaryOp():
                return self._apply(_ARITHMETIC[_kind(node.op)], self._visit(node.operand, scope))
            case ast.BinOp(op=ast.Pow()):
                return self._power(self._visit(node.left, scope), node.right.value)  # type: ignore[attr-defined]
            case ast.BinOp():
                left, right = self._visit(node.left, scope), self._visit(node.right, scope)
                return self._apply(_ARITHMETIC[_kind(node.op)], left, right)
            case ast.Compare():
                sides = [self._visit(node.left, scope), self._visit(node.comparators[0], scope)]
                operation, swapped = _COMPARED[_kind(node.ops[0])]
                return self._apply(operation, *(sides[::-1] if swapped else sides))
            case ast.Call():
                name = node.func.id  # type: ignore[attr-defined]
                given = [self._visit(argument, scope) for argument in node.args]
                return self._call(name, given)
        raise AssertionError(ast.dump(node))

    def _call(self, name: str, given: list[int]) -> int:
        if name in self.own:
            return self._apply(name, *given)
        return self._visit(
            _body(self.definitions[name]), dict(zip(("a", "b"), given, strict=False))
        )

    def _named(self, name: str, row: int | None = None) -> int:
        return self._number(_value(self.text, self.values, name, row))

    def _number(self, value: float | NDArray[np.float64]) -> int:
        key = value if isinstance(value, float) else value.tobytes()
        return self._node("number", (), value, repr(key))

    def _power(self, base: int, exponent: int) -> int:
        if exponent == 0:
            return self._number(1.0)
        half = self._power(base, exponent // 2) if exponent > 1 else base
        if exponent == 1:
            return half
        square = self._apply("multiply", half, half)
        return self._apply("multiply", square, base) if exponent % 2 else square

    def _apply(self, operation: str, *operands: int) -> int:
        given = [self.numbers.get(operand) for operand in operands]
        if all(value is not None for value in given):
            with np.errstate(all="ignore"):
                value = np.asarray(OPERATIONS[operation](*given), np.float64)
            return self._number(value if value.ndim else float(value))
        if operation == "where" and isinstance(given[0], float):
            return operands[1] if given[0] else operands[2]
        first, second = (*given, None, None)[:2]
        if operation == "copy":
            return operands[0]
        # exact for all numbers
        if isinstance(second, float) and second == 1 and operation in ("multiply", "divide"):
            return operands[0]
        if isinstance(first, float) and first == 1 and operation == "multiply":
            return operands[1]
        if operation == "divide" and isinstance(second, float) and _is_power_of_two(second):
            return self._apply("multiply", operands[0], self._number(1 / second))
        if operation in ("add", "multiply", "max", "min") and operands[0] > operands[1]:
            operands = operands[1], operands[0]
        return self._node(operation, operands)

    def _node(
        self,
        operation: str,
        operands: tuple[int, ...],
        value: float | NDArray[np.float64] | None = None,
        key: str = "",
    ) -> int:
        found = self._known.setdefault((operation, operands, key), len(self.nodes))
        if found == len(self.nodes):
            if found >= MAX_EXPRESSION_NODES:
                raise ComponentError(
                    f"expression {_short(self.text)!r} needs more than {MAX_EXPRESSION_NODES} steps"
                )
            self.nodes.append((operation, operands))
            if value is not None:
                self.numbers[found] = value
        return found


@functools.cache
def _body(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def _check(node: ast.expr, depth: int = 0, compared: bool = False) -> None:
    """Raises SyntaxError for what the language does not have."""
    depth += 1
    if depth > DEEPEST:
        raise SyntaxError(f"it is nested deeper than {DEEPEST} levels")
    match node:
        case ast.Constant():
            if type(node.value) not in (int, float):
                raise SyntaxError(f"{node.value!r} is not a number")
        case ast.Name():
            pass
        case ast.Subscript(value=ast.Name(), slice=ast.Constant(value=int())):
            pass
        case ast.UnaryOp() if _kind(node.op) in _ARITHMETIC:
            _check(node.operand, depth)
        case ast.BinOp(op=ast.Pow()):
            exponent = node.right.value if isinstance(node.right, ast.Constant) else None
            if type(exponent) is not int or exponent > HIGHEST_POWER:
                raise SyntaxError(
                    f"** takes a whole number from 0 to {HIGHEST_POWER}, else use pow"
                )
            _check(node.left, depth)
        case ast.BinOp() if _kind(node.op) in _ARITHMETIC:
            _check(node.left, depth)
            _check(node.right, depth)
        case ast.Compare(ops=[operator]) if compared and _kind(operator) in _COMPARED:
            _check(node.left, depth)
            _check(node.comparators[0], depth)
        case ast.Call():
            _check_call(node, depth)
        case _:
            raise SyntaxError(f"{type(node).__name__} has no place in it")


def _kind(operator: ast.AST) -> str:
    return type(operator).__name__


def _check_call(node: ast.Call, depth: int) -> None:
    name = node.func.id if isinstance(node.func, ast.Name) else ast.unparse(node.func)
    if name not in FUNCTIONS:
        raise SyntaxError(f"there is no {name}. {did_you_mean(name, FUNCTIONS)}")
    if len(node.args) != FUNCTIONS[name] or node.keywords:
        raise SyntaxError(f"{name} takes {FUNCTIONS[name]} arguments, not {len(node.args)}")
    if name == "where" and not isinstance(node.args[0], ast.Compare):
        raise SyntaxError("where takes a comparison first")
    for argument in node.args:
        _check(argument, depth, compared=name == "where" and argument is node.args[0])


def _names(body: ast.expr) -> list[str]:
    calls = {id(node.func) for node in ast.walk(body) if isinstance(node, ast.Call)}
    found = [n for n in ast.walk(body) if isinstance(n, ast.Name) and id(n) not in calls]
    return list(dict.fromkeys(node.id for node in found if node.id not in NUMBERS))


def _value(
    text: str, values: Mapping[str, Any], name: str, row: int | None
) -> float | NDArray[np.float64]:
    """The number or the vector of a name, or of one of its rows."""
    if name not in values:
        raise missing(text, name)
    try:
        value = np.asarray(values[name], np.float64)
        value = value if row is None else value[row]
    except (TypeError, ValueError, IndexError) as error:
        raise ComponentError(f"expression {_short(text)!r}: {name!r}: {error}") from None
    if value.ndim > 1:
        raise ComponentError(
            f"expression {_short(text)!r}: {name!r} has the shape {value.shape}; give a number, "
            "or one for each channel"
        )
    # a vector of one number holds for all channels
    return value if value.size > 1 else float(value.reshape(()))


def _is_power_of_two(value: float) -> bool:
    return abs(math.frexp(value)[0]) == 0.5 and 1e-30 < abs(value) < 1e30


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
