"""The program of a plan: instructions over values, and their weights.

Values are numbered: 0 is the input, and instruction n makes value n + 1. `engine.cpp` defines each
instruction; its headers name the fields that it reads. The body of an instruction stands behind it
in the table and has numbers of its own, from two inputs on.
"""

from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

CODES = (
    *("separable", "depthwise", "affine", "activate", "log", "delay", "add", "preemphasis"),
    *("spectrum", "resample", "log_softmax", "sliding_average", "running_average", "pcen"),
    *("bands", "call", "part", "unfold", "join", "normalize", "largest", "running_norm"),
    *("cumulative_norm", "scan", "lstm", "gru", "repeat", "fold", "expression"),
    *("attention", "retention", "linear_attention", "spread", "attend", "places", "blocks"),
    "binary",
)
STATELESS = frozenset(
    (
        *("separable", "affine", "activate", "add", "part", "join", "normalize"),
        *("log_softmax", "largest", "repeat", "fold", "expression", "spread", "attend", "places"),
        "binary",
    )
)
"""The codes of instructions without a state; "separable" has one if it has taps."""
FIELDS = (
    *("code", "input", "other", "rows", "channels", "keep", "taps", "stride", "dilation", "left"),
    *("rate", "size", "activation", "precision", "weights", "filters", "bias", "numbers"),
)
TABLES = FIELDS[-4:]
"""The fields that are offsets into the weights."""
DEFAULTS = {"other": -1, "stride": 1, "dilation": 1, "rate": 1}


class LoweringError(Exception):
    """A layer has no native form; the message names it."""


@dataclass(frozen=True)
class Value:
    """The output of an instruction: `rows` of `channels` for each stride of the net's input."""

    number: int
    rows: int
    channels: int


@dataclass
class Program:
    """Collects instructions and weights. Two programs of one net may share `weights`.

    The body of an instruction has two `inputs`, values 0 and 1.
    """

    instructions: list[dict[str, Any]] = field(default_factory=list)
    weights: "Weights" = field(default_factory=lambda: Weights())
    inputs: int = 1

    def emit(
        self,
        code: str,
        x: Value,
        *,
        rows: int | None = None,
        channels: int | None = None,
        other: Value | None = None,
        body: "Program | None" = None,
        **fields: Any,
    ) -> Value:
        """Appends an instruction of CODES; returns its value, which has x's rows and channels.

        `fields` are numbers for FIELDS, or arrays for TABLES.
        """
        y = Value(
            len(self.instructions) + self.inputs,
            x.rows if rows is None else rows,
            x.channels if channels is None else channels,
        )
        own: dict[str, Any] = {
            "code": CODES.index(code),
            "input": x.number,
            "rows": y.rows,
            "channels": y.channels,
        }
        if other is not None:
            own["other"] = other.number
        if body is not None:
            own |= {"body": body.instructions, "left": len(body.instructions)}
        for name, value in fields.items():
            own[name] = self.weights.add(value) if name in TABLES else int(value)
        self.instructions.append({**dict.fromkeys(FIELDS, 0), **DEFAULTS, "body": [], **own})
        return y

    def end(self, y: Value) -> None:
        """Makes y the last value, the output: removes the instructions that do not lead to it."""
        needed = {y.number}
        for number in range(y.number, 0, -1):
            if number in needed:
                row = self.instructions[number - 1]
                needed |= {row["input"], row["other"]}
        kept = [number for number in range(1, y.number + 1) if number in needed]
        places = {-1: -1, 0: 0, **{number: place for place, number in enumerate(kept, start=1)}}
        rows = [self.instructions[number - 1] for number in kept]
        self.instructions[:] = [
            {**row, "input": places[row["input"]], "other": places[row["other"]]} for row in rows
        ]

    def refuse(self, reason: str) -> NoReturn:
        """Raises LoweringError: the layer then runs in torch, and `reason` is shown."""
        raise LoweringError(reason)

    def expect(self, holds: bool, reason: str) -> None:
        """Refuses the layer with `reason` unless a condition holds."""
        if not holds:
            self.refuse(reason)

    @property
    def with_state(self) -> list[str]:
        """The codes of the instructions that keep a state from one block to the next."""
        rows = [(CODES[row["code"]], row["taps"]) for row in self.instructions]
        return [x for x, taps in rows if x not in STATELESS or (x == "separable" and taps)]

    @property
    def table(self) -> NDArray[np.int64]:
        """The instructions as `[n, FIELDS]`."""
        rows = [line for row in self.instructions for line in (row, *row["body"])]
        numbers = [[row[name] for name in FIELDS] for row in rows]
        return np.array(numbers, dtype=np.int64).reshape(-1, len(FIELDS))


def outside_bodies(table: NDArray[np.int64]) -> NDArray[np.intp]:
    """The places of the instructions that stand in no body."""
    code, left = FIELDS.index("code"), FIELDS.index("left")
    places, at = [], 0
    while at < len(table):
        places.append(at)
        is_block = table[at, code] == CODES.index("blocks")
        at += 1 + (min(max(int(table[at, left]), 0), len(table)) if is_block else 0)
    return np.array(places, dtype=np.intp)


class Weights:
    """Float32 arrays one after another; equal ones are stored once."""

    def __init__(self) -> None:
        self._parts: list[NDArray[np.float32]] = []
        self._places: dict[bytes, int] = {}
        self._count = 0

    def add(self, values: ArrayLike) -> int:
        """Stores an array if it is new; returns its offset."""
        flat = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
        key = flat.tobytes()
        if key not in self._places:
            self._places[key] = self._count
            self._parts.append(flat)
            self._count += len(flat)
        return self._places[key]

    @property
    def array(self) -> NDArray[np.float32]:
        """All of them as `[W]`."""
        return np.concatenate([np.empty(0, np.float32), *self._parts])
