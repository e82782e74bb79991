"""The instruction `blocks` and its body: against formulas in numpy, and with numbers it refuses."""

import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from speechkit.errors import ConfigError
from speechkit.plans.engine import LoadedPlan, Steps
from speechkit.plans.program import Program, Value

CHANNELS, HEADS, SIZE, STATES = 6, 2, 5, 3
Array = NDArray[np.float32]
STATUS = Path("/proc/self/statm")
chance = np.random.default_rng(0)
FIRST = chance.normal(size=(STATES, 2 * CHANNELS)).astype(np.float32)
PLACES = chance.normal(size=(SIZE, CHANNELS)).astype(np.float32)


def attend(queries: Array, others: Array) -> Array:
    """Of queries `[Q, C]` to keys and values `[K, 2 C]`, in each head."""
    k, v = np.split(others, 2, axis=1)
    y = np.zeros_like(queries)
    for h in range(HEADS):
        own = slice(h * CHANNELS // HEADS, (h + 1) * CHANNELS // HEADS)
        a = np.exp(queries[:, own] @ k[:, own].T)
        y[:, own] = a / np.maximum(a.sum(1, keepdims=True), 1e-30) @ v[:, own]
    return y


def updated(program: Program, memory: Value, block: Value) -> Value:
    """m / 2 + [a, a], where a is the attention of the first half of m to a block."""
    queries = program.emit("part", memory, size=0, channels=CHANNELS)
    a = program.emit("attend", block, other=queries, size=HEADS, rows=STATES, channels=CHANNELS)
    both = program.emit("join", a, other=a, channels=2 * CHANNELS)
    scale = [0.5] * 2 * CHANNELS + [0.0] * 2 * CHANNELS
    return program.emit("add", program.emit("affine", memory, weights=scale), other=both)


def reading(**changed: Any) -> LoadedPlan:
    """A plan of a row of queries, keys and values; the queries read the memory."""
    program, x = Program(), Value(0, 1, 3 * CHANNELS)
    queries = program.emit("part", x, size=0, channels=CHANNELS)
    others = program.emit("part", x, size=CHANNELS, channels=2 * CHANNELS)
    body = Program(weights=program.weights, inputs=2)
    after = updated(body, Value(1, STATES, 2 * CHANNELS), Value(0, SIZE, 2 * CHANNELS))
    fields: dict[str, Any] = {
        "other": queries,
        "channels": CHANNELS,
        "body": body,
        "taps": SIZE,
        "size": STATES,
        "keep": 2 * CHANNELS,
        "rate": after.number,
        "weights": FIRST,
        "numbers": [HEADS],
    }
    fields |= changed
    left = fields.pop("left", None)
    program.emit("blocks", others, **fields)
    if left is not None:
        program.instructions[-1]["left"] = left
    return LoadedPlan(program.table, program.weights.array, 1, 3 * CHANNELS, 2)


def waiting(**changed: Any) -> LoadedPlan:
    """A plan in which the rows of a block, with places added, read the memory and leave."""
    program, x = Program(), Value(0, 1, CHANNELS)
    body = Program(weights=program.weights, inputs=2)
    block, memory = Value(0, SIZE, CHANNELS), Value(1, STATES, 2 * CHANNELS)
    placed = body.emit("places", block, weights=PLACES)
    leaving = body.emit("attend", memory, other=placed, size=HEADS, rows=SIZE, channels=CHANNELS)
    others = body.emit("join", placed, other=placed, channels=2 * CHANNELS)
    after = updated(body, memory, others)
    fields: dict[str, Any] = {
        "channels": CHANNELS,
        "body": body,
        "taps": SIZE,
        "size": STATES,
        "weights": FIRST,
        "keep": 2 * CHANNELS,
        "rate": after.number,
        "dilation": leaving.number,
    }
    program.emit("blocks", x, **{**fields, **changed})
    return LoadedPlan(program.table, program.weights.array, 1, CHANNELS, 2)


def run(plan: LoadedPlan, x: Array, real: int) -> tuple[Array, NDArray[np.bool_]]:
    steps = Steps(plan, plan.new_states(1), 1, 1)
    found, valid = [], []
    for start in range(0, len(x), 2):
        steps.real[:] = np.clip(real - start, 0, 2)
        steps(x[None, start : start + 2])
        found.append(steps.y[0, 0].copy())
        valid.append(steps.valid[0, 0].copy())
    return np.concatenate(found), np.concatenate(valid)


def test_rows_read_the_memory_of_the_blocks_before() -> None:
    rows, real = 40, 33
    x = np.random.default_rng(1).normal(size=(rows, 3 * CHANNELS)).astype(np.float32)
    x[real:] = np.nan
    found, valid = run(reading(), x, real)
    np.testing.assert_array_equal(valid, np.arange(rows) < real)
    memory = FIRST
    for t in range(real):
        np.testing.assert_allclose(found[t], attend(x[t : t + 1, :CHANNELS], memory)[0], 1e-4, 1e-5)
        if t % SIZE == SIZE - 1:
            a = attend(memory[:, :CHANNELS], x[t + 1 - SIZE : t + 1, CHANNELS:])
            memory = memory / 2 + np.tile(a, 2)


@pytest.mark.parametrize("real", [40, 33])
def test_rows_leave_with_their_block(real: int) -> None:
    rows = 48
    x = np.random.default_rng(1).normal(size=(rows, CHANNELS)).astype(np.float32)
    x[real:] = np.nan
    found, valid = run(waiting(), x, real)
    delay = SIZE - 1
    np.testing.assert_array_equal(
        valid, (np.arange(rows) >= delay) & (np.arange(rows) < real + delay)
    )
    memory = FIRST
    for start in range(0, real, SIZE):
        count = min(SIZE, real - start)
        placed = x[start : start + count] + PLACES[:count]
        y = found[start + delay : start + delay + count]
        np.testing.assert_allclose(y, attend(placed, memory), 1e-4, 1e-5)
        memory = memory / 2 + np.tile(attend(memory[:, :CHANNELS], np.tile(placed, 2)), 2)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"left": 0}, "its body is not there"),
        ({"left": 9}, "its body is not there"),
        ({"taps": 0}, "its blocks or its memory are empty"),
        ({"keep": 0}, "its blocks or its memory are empty"),
        ({"size": 2}, "its part: its rows differ from its input's"),
        ({"taps": 1 << 27}, "it needs too much memory"),
        ({"rate": 7}, "its body has no such value"),
        ({"rate": 2}, "its next memory has another size"),
        ({"weights": [1.0]}, "it lies outside the weights"),
        ({"numbers": [4]}, "its channels do not divide by its heads"),
        ({"numbers": [0]}, "its channels do not divide by its heads"),
    ],
)
def test_wrong_fields_are_refused(changed: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=f": {reason}"):
        reading(**changed)


def test_a_body_with_other_rows_than_its_own_is_refused() -> None:
    with pytest.raises(ConfigError, match="its body's output rows differ from its own"):
        waiting(channels=CHANNELS + 1)
    with pytest.raises(ConfigError, match="its body's output rows differ from its own"):
        waiting(dilation=1)


@pytest.mark.parametrize(
    ("code", "fields", "reason"),
    [
        ("delay", {"keep": 3}, "its body has a state"),
        ("call", {}, "its call: it calls a layer that a plan file cannot hold"),
        ("blocks", {"left": 1}, "it stands in the body of another"),
    ],
)
def test_a_body_computes_without_a_state(code: str, fields: dict[str, Any], reason: str) -> None:
    program, x = Program(), Value(0, 1, CHANNELS)
    body = Program(weights=program.weights, inputs=2)
    after = body.emit(code, Value(1, STATES, 2 * CHANNELS), **fields)
    given = {"taps": SIZE, "size": STATES, "keep": 2 * CHANNELS, "rate": after.number}
    program.emit("blocks", x, body=body, weights=FIRST, dilation=after.number, **given)
    with pytest.raises(ConfigError, match=reason):
        LoadedPlan(program.table, program.weights.array, 1, CHANNELS, 1)


@pytest.mark.skipif(not STATUS.exists(), reason="needs /proc")
def test_bodies_share_the_memory_of_the_weights() -> None:
    def resident_bytes() -> int:
        return int(STATUS.read_text().split()[1]) * resource.getpagesize()

    program, x, weights = Program(), Value(0, 1, CHANNELS), 1_000_000
    for _ in range(30):
        body = Program(weights=program.weights, inputs=2)
        leaving = body.emit("places", Value(0, SIZE, CHANNELS), weights=PLACES)
        after = body.emit("places", Value(1, STATES, 2 * CHANNELS), weights=FIRST)
        given = {"taps": SIZE, "size": STATES, "keep": 2 * CHANNELS, "rate": after.number}
        x = program.emit("blocks", x, body=body, weights=FIRST, dilation=leaving.number, **given)
    table = np.concatenate([program.weights.array, np.zeros(weights, np.float32)])
    before = resident_bytes()
    plan = LoadedPlan(program.table, table, 1, CHANNELS, 1)
    assert resident_bytes() - before < 5 * table.nbytes
    assert plan.rows_out == 1
