"""Products of signs in the engine, and how a plan stores them."""

import numpy as np
import pytest

from speechkit.errors import ConfigError
from speechkit.plans.engine import Floats, LoadedPlan, Steps
from speechkit.plans.program import Program, Value
from speechkit.plans.signs import STORED, packed_signs


@pytest.mark.parametrize("count", [1, 29, 30, 31, 64, 4096])
def test_30_signs_take_one_finite_float(count: int) -> None:
    values = np.random.default_rng(count).normal(size=count)
    stored = packed_signs(values)
    assert stored.dtype == np.float32
    assert len(stored) == -(-count // STORED)
    assert np.isfinite(stored).all()
    bits = stored.view(np.int32)[:, None] >> np.arange(STORED) & 1
    np.testing.assert_array_equal(bits.ravel()[:count], values >= 0)
    assert not bits.ravel()[count:].any()


def product(c_in: int, c_out: int, rows: int, x: Floats) -> tuple[Floats, Floats]:
    """The engine's y for x `[rows, c_in]`, and the same by hand in whole numbers."""
    chance = np.random.default_rng(c_in * c_out)
    weight = chance.choice([-1, 1], size=(c_out, c_in))
    shift, factor = (chance.normal(size=n).astype(np.float32) for n in (c_in, c_out))
    program = Program()
    program.emit(
        "binary",
        Value(0, 1, c_in),
        channels=c_out,
        weights=packed_signs(weight),
        bias=shift,
        numbers=factor,
    )
    plan = LoadedPlan(program.table, program.weights.array, 1, c_in, rows)
    steps = Steps(plan, plan.new_states(1), 1, 1)
    steps(x[None])
    sums = np.where(x + shift >= 0, 1, -1) @ weight.T
    return steps.y[0, 0], sums.astype(np.float32) * factor


@pytest.mark.parametrize("rows", [1, 6, 17])
@pytest.mark.parametrize(
    ("c_in", "c_out"), [(8, 20), (31, 64), (32, 16), (33, 7), (64, 64), (100, 130), (256, 1)]
)
def test_a_product_of_signs_is_exact(c_in: int, c_out: int, rows: int) -> None:
    x = np.random.default_rng(rows).normal(size=(rows, c_in)).astype(np.float32)
    got, expected = product(c_in, c_out, rows, x)
    np.testing.assert_array_equal(got, expected)


def test_zero_and_minus_zero_are_positive_and_nan_is_not() -> None:
    x = np.array([[0.0, -0.0, np.nan, -1e-45, np.inf, -np.inf, 1.0, -1.0]], np.float32)
    program = Program()
    zeros, ones = np.zeros(8, np.float32), np.ones(1, np.float32)
    program.emit(
        "binary",
        Value(0, 1, 8),
        channels=1,
        weights=packed_signs(np.ones(8)),
        bias=zeros,
        numbers=ones,
    )
    plan = LoadedPlan(program.table, program.weights.array, 1, 8, 1)
    steps = Steps(plan, plan.new_states(1), 1, 1)
    steps(x)
    # four of eight are positive
    assert steps.y.item() == 0


def test_a_plan_without_all_of_its_signs_is_refused() -> None:
    program = Program()
    weights = packed_signs(np.ones((9, 16)))
    program.emit("binary", Value(0, 1, 16), channels=9, weights=weights)
    with pytest.raises(ConfigError, match="binary 0: it lies outside the weights"):
        LoadedPlan(program.table, program.weights.array[:-1], 1, 16, 1)
