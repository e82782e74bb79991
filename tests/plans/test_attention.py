"""The instruction `attention`: against its formula in numpy, and with numbers that are refused."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from speechkit.errors import ConfigError
from speechkit.plans.engine import LoadedPlan, Steps
from speechkit.plans.program import Program, Value

CHANNELS, HEADS, TAPS, LEFT = 6, 2, 20, 17
Array = NDArray[np.float32]
# for each head and distance, the oldest row first
BIAS = np.random.default_rng(1).normal(size=(HEADS, TAPS))


def loaded(function: float = 1, power: float = 0.5, **changed: Any) -> LoadedPlan:
    """A plan of one row of queries, keys and values, one after another along the channels."""
    program, x = Program(), Value(0, 1, 3 * CHANNELS)
    queries = program.emit("part", x, size=0, channels=CHANNELS)
    waiting = program.emit("delay", queries, keep=TAPS - 1 - LEFT)
    others = program.emit("part", x, size=CHANNELS, channels=2 * CHANNELS)
    fields: dict[str, Any] = {
        "size": HEADS,
        "taps": TAPS,
        "keep": TAPS - 1,
        "left": LEFT,
        "numbers": [function, power, *np.linspace(1, 2, HEADS)],
        "bias": BIAS,
        "other": waiting,
        "channels": CHANNELS,
    }
    program.emit("attention", others, **{**fields, **changed})
    return LoadedPlan(program.table, program.weights.array, 1, 3 * CHANNELS, 2)


def formula(x: Array, real: int, function: float, power: float) -> Array:
    """y `[T, C]` for rows of queries, keys and values, of which the first `real` are valid."""
    q, k, v = np.split(x.astype(np.float64), 3, axis=1)
    y, each = np.zeros_like(q), CHANNELS // HEADS
    for t in range(real):
        rows = np.arange(max(0, t - LEFT), min(real, t + TAPS - LEFT))
        for h in range(HEADS):
            own = slice(h * each, (h + 1) * each)
            s = k[rows, own] @ q[t, own] / each**0.5 + BIAS[h, rows - t + LEFT]
            a = np.exp(s) / np.exp(s).sum() if function else np.maximum(s, 0)
            y[t, own] = (1 + h) * len(rows) ** -power * a @ v[rows, own]
    return y.astype(np.float32)


@pytest.mark.parametrize(("function", "power"), [(1, 0), (0, 1), (0, 0.5)])
def test_a_plan_computes_the_formula(function: float, power: float) -> None:
    plan = loaded(function, power)
    rows, real, delay = 70, 61, TAPS - 1 - LEFT
    x = np.random.default_rng(0).normal(size=(1, rows, 3 * CHANNELS)).astype(np.float32)
    # what lies in rows that are not valid is not read
    x[:, real:] = np.nan
    steps = Steps(plan, plan.new_states(1), 1, 1)
    found, valid = [], []
    for start in range(0, rows, 2):
        steps.real[:] = np.clip(real - start, 0, 2)
        steps(np.ascontiguousarray(x[:, start : start + 2]))
        found.append(steps.y[0, 0].copy())
        valid.append(steps.valid[0, 0].copy())
    expected = formula(x[0], real, function, power)
    got = np.concatenate(found)[delay : delay + real]
    np.testing.assert_allclose(got, expected[:real], rtol=1e-5, atol=1e-5)
    assert np.array_equal(np.concatenate(valid)[delay:], np.arange(rows - delay) < real)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"size": 4}, "its channels do not divide by its heads"),
        ({"size": 0}, "its channels do not divide by its heads"),
        ({"taps": 0}, "it has no taps"),
        ({"taps": TAPS + 2}, "it reads rows that are not kept"),
        ({"keep": TAPS - 3}, "it reads rows that are not kept"),
        ({"left": TAPS + 2}, "it reads rows that are not kept"),
        ({"stride": 3}, "it reads rows that are not kept"),
        ({"keep": 1 << 27}, "it needs too much memory"),
        ({"other": None}, "it needs two inputs of channels"),
        ({"bias": BIAS[:1]}, "it lies outside the weights"),
        ({"channels": CHANNELS - 1}, "its two inputs differ in size"),
        ({"channels": 2 * CHANNELS, "other": Value(3, 1, 0)}, "its input is not keys and values"),
    ],
)
def test_wrong_fields_are_refused(changed: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        loaded(**changed)
