"""Assembles expressions into the programs that `elementwise.h` interprets."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechkit.errors import ComponentError
from speechkit.limits import MAX_EXPRESSION_NODES, MAX_EXPRESSION_NUMBERS
from speechkit.ops.expressions import OPERATIONS, Graph, is_gate

REGISTERS, FIRST, SECOND, CONSTANTS = 32, 32, 33, 34
"""How operands are numbered: registers, the two inputs, then constants, then vectors."""
RESULT = REGISTERS
LANES = 16
"""How often a constant is repeated, and the multiple to which vectors are padded."""
_CODES = {operation: code for code, operation in enumerate(OPERATIONS)}


@dataclass(frozen=True)
class Code:
    """A program: `code` int32 `[n, 5]`, constants `[K]` and vectors `[V, C]`, float32.

    A row of `code` is an operation, its destination and three operands. With `second` it has two
    inputs.
    """

    code: NDArray[np.int32]
    constants: NDArray[np.float32]
    vectors: NDArray[np.float32]
    second: bool = False

    @property
    def is_identity(self) -> bool:
        """True if the program returns x."""
        return np.array_equal(self.code, [[_CODES["copy"], RESULT, FIRST, 0, 0]])

    @property
    def is_relu(self) -> bool:
        """True if the program returns max(x, 0)."""
        alone = np.array_equal(self.code, [[_CODES["max"], RESULT, FIRST, CONSTANTS, 0]])
        return alone and np.array_equal(self.constants, [0.0])

    def packed(self, channels: int) -> NDArray[np.float32]:
        """The program as floats for `read_code` in elementwise.h; the first hold the bits of int32.

        Raises ComponentError if the vectors have another number of channels.
        """
        count, width = len(self.vectors), -(-channels // LANES) * LANES
        if count and self.vectors.shape[1] != channels:
            raise ComponentError(
                f"its vectors have {self.vectors.shape[1]} numbers for {channels} channels"
            )
        vectors = np.zeros((count, width), np.float32)
        vectors[:, : self.vectors.shape[1]] = self.vectors
        header = np.array([len(self.code), len(self.constants), count, 0], np.int32)
        words = np.concatenate([header, self.code.ravel()])
        words = np.pad(words, (0, -len(words) % LANES)).view(np.float32)
        return np.concatenate([words, self.constants.repeat(LANES), vectors.ravel()])


def assemble(text: str, values: Mapping[str, Any] | None = None) -> Code:
    """The program of an expression whose names have `values`.

    Raises ComponentError for an invalid expression, for a name without a value, and for a program
    that is too long.
    """
    graph = _fused(Graph(text, values or {}))
    constants: dict[float, int] = {}
    vectors: list[NDArray[np.float32]] = []
    for index in graph.used():
        value = graph.numbers.get(index)
        if isinstance(value, float):
            constants.setdefault(value, len(constants))
        elif value is not None:
            vectors.append(value.astype(np.float32))
    lengths = {len(vector) for vector in vectors}
    if len(lengths) > 1 or max(len(constants), len(vectors)) > MAX_EXPRESSION_NUMBERS:
        raise ComponentError(
            f"expression {text[:80]!r}: it has vectors of {sorted(lengths)} and {len(constants)} "
            f"numbers; it takes one length and {MAX_EXPRESSION_NUMBERS} of each"
        )
    with np.errstate(over="ignore"):
        numbers = np.array(list(constants), np.float32)
    code = _allocated(graph, constants, text)
    stacked = np.stack(vectors) if vectors else np.zeros((0, 0), np.float32)
    return Code(code, numbers, stacked, is_gate(text))


def _fused(graph: Graph) -> Graph:
    """Makes one operation of each sum and a product that only this sum reads."""
    used = graph.used()
    readers = [operand for index in used for operand in graph.nodes[index][1]]
    for index in used:
        operation, operands = graph.nodes[index]
        if operation != "add":
            continue
        for product, other in (operands, operands[::-1]):
            if graph.nodes[product][0] == "multiply" and readers.count(product) == 1:
                graph.nodes[index] = "multiply_add", (*graph.nodes[product][1], other)
                break
    return graph


def _allocated(graph: Graph, constants: Mapping[float, int], text: str) -> NDArray[np.int32]:
    """The rows of code; a register is used again after the last operation that reads it."""
    used = graph.used()
    last = {operand: index for index in used for operand in graph.nodes[index][1]}
    places: dict[int, int] = {}
    free = list(range(REGISTERS))[::-1]
    rows: list[tuple[int, ...]] = []
    vectors = CONSTANTS + len(constants)
    for index in used:
        operation, operands = graph.nodes[index]
        value = graph.numbers.get(index)
        if operation in ("first", "second"):
            places[index] = FIRST if operation == "first" else SECOND
        elif isinstance(value, float):
            places[index] = CONSTANTS + constants[value]
        elif value is not None:
            places[index], vectors = vectors, vectors + 1
        else:
            given = [places[operand] for operand in operands]
            freed = {o for o in operands if last[o] == index and places[o] < REGISTERS}
            free.extend(sorted(places[operand] for operand in freed))
            if not free or len(rows) >= MAX_EXPRESSION_NODES:
                raise ComponentError(
                    f"expression {text[:80]!r} needs more than {REGISTERS} registers"
                )
            places[index] = RESULT if index == graph.result else free.pop()
            rows.append((_CODES[operation], places[index], *given, *[0] * (3 - len(given))))
    if not rows:
        rows.append((_CODES["copy"], RESULT, places[graph.result], 0, 0))
    return np.array(rows, np.int32)
