"""Makes a Triton function of an expression, for the kernels to take as a constant."""

import functools
import linecache
import math
from typing import Any

from speechkit.errors import ComponentError
from speechkit.ops.expressions import DEFINITIONS, Graph

TEMPLATES = {
    "copy": "{0}",
    "negative": "-{0}",
    "abs": "tl.abs({0})",
    "floor": "tl.floor({0})",
    "sqrt": "tl.sqrt({0})",
    "exp": "tl.exp({0})",
    "log": "tl.log({0})",
    "sigmoid": "tl.sigmoid({0})",
    "erf": "tl.erf({0})",
    "sin": "tl.sin({0})",
    "cos": "tl.cos({0})",
    "add": "{0} + {1}",
    "subtract": "{0} - {1}",
    "multiply": "{0} * {1}",
    "divide": "{0} / {1}",
    "max": "tl.maximum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    "min": "tl.minimum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    "less": "{0} < {1}",
    "less_equal": "{0} <= {1}",
    "equal": "{0} == {1}",
    "not_equal": "{0} != {1}",
    "where": "tl.where({0}, {1}, {2})",
}
"""The operations that Triton has."""
# the polynomials are Taylor's and, of atan and asin, those of Cephes
_DEFINITIONS = DEFINITIONS | {
    "tanh": "2 * sigmoid(2 * a) - 1",
    "sign": "where(a > 0, 1, where(a < 0, -1, a))",
    "round": "where(abs(a) < 4194304, (a + 12582912) - 12582912, a)",
    "pow": "where(b == 0, 1, where(a == 1, 1, exp(b * log(a))))",
    "expm1": "where(abs(a) < 0.5, a * (1 + a / 2 * (1 + a / 3 * (1 + a / 4 * (1 + a / 5 *"
    " (1 + a / 6 * (1 + a / 7 * (1 + a / 8))))))), exp(a) - 1)",
    "log1p": "where(abs(a) < 0.5, log1p_near(a / (2 + a)), log(1 + a))",
    "log1p_near": "2 * a * (1 + a * a * (1 / 3 + a * a * (1 / 5 + a * a * (1 / 7 + a * a *"
    " (1 / 9 + a * a * (1 / 11 + a * a / 13))))))",
    "atan": "sign(a) * atan_above(abs(a))",
    "atan_above": "where(a > 2.414213562, 1.5707963267948966,"
    " where(a > 0.4142135624, 0.7853981633974483, 0))"
    " + atan_near(where(a > 2.414213562, -1 / a, where(a > 0.4142135624, (a - 1) / (a + 1), a)))",
    "atan_near": "a + a * a * a * (-3.33329491539e-1 + a * a * (1.99777106478e-1 + a * a *"
    " (-1.38776856032e-1 + a * a * 8.05374449538e-2)))",
    "asin": "sign(a) * where(abs(a) > 0.5,"
    " 1.5707963267948966 - 2 * asin_near(sqrt((1 - abs(a)) / 2)), asin_near(abs(a)))",
    "asin_near": "a + a * a * a * (1.6666752422e-1 + a * a * (7.4953002686e-2 + a * a *"
    " (4.5470025998e-2 + a * a * (2.4181311049e-2 + a * a * 4.2163199048e-2))))",
}


def translated(text: str) -> list[str]:
    """The lines of a Triton function of `x` that computes an expression.

    Raises ComponentError for an invalid one, and for one with names.
    """
    graph = Graph(text, {}, frozenset(TEMPLATES), _DEFINITIONS)
    written: dict[int, str] = {}
    lines = []
    for index in graph.used():
        operation, operands = graph.nodes[index]
        if operation == "second":
            raise ComponentError(f"expression {text[:80]!r} has two inputs; kernels take x alone")
        if operation == "first":
            written[index] = "x"
        elif operation == "number":
            value = graph.numbers[index]
            written[index] = repr(value) if math.isfinite(value) else f'float("{value}")'
        else:
            written[index] = f"v{index}"
            filled = TEMPLATES[operation].format(*(written[operand] for operand in operands))
            lines.append(f"v{index} = {filled}")
    return [*lines, f"return {written[graph.result]}"]


@functools.cache
def compiled(text: str) -> Any:
    """The Triton function `f(x)` of an expression, for a kernel to take as a constant."""
    import triton
    import triton.language as tl

    source = "".join(["def f(x):\n", *(f"    {line}\n" for line in translated(text))])
    # triton reads the source of a function from linecache
    name = f"<expression {text}>"
    linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name
    scope: dict[str, Any] = {"tl": tl, "__name__": __name__}
    exec(compile(source, name, "exec"), scope)
    return triton.jit(scope["f"])
