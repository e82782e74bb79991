"""Schedules against their formulas at every step, and at their ends."""

import math
from collections.abc import Callable

import pytest

from speechkit.train.schedules import constant, cosine, exponential, polynomial_hold

ALL: list[Callable] = [constant, cosine, polynomial_hold, exponential]


def test_cosine_is_the_formula_at_every_step() -> None:
    factor = cosine(100, warmup=10, floor=0.1)
    for step in range(101):
        if step <= 10:
            expected = (step + 1) / 11
        else:
            expected = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (step - 10) / 90))
        assert factor(step) == pytest.approx(expected, abs=1e-15)
    assert factor(55) == pytest.approx(0.55)
    assert factor(100) == factor(1000) == pytest.approx(0.1)


def test_polynomial_hold_is_the_formula_at_every_step() -> None:
    factor = polynomial_hold(200, warmup_ratio=0.05, hold_ratio=0.45, power=2.0, floor=0.02)
    for step in range(201):
        if step <= 10:
            expected = (step + 1) / 11
        elif step < 100:
            expected = 1.0
        else:
            expected = 0.02 + 0.98 * (1 - (step - 100) / 100) ** 2
        assert factor(step) == pytest.approx(expected, abs=1e-15)
    assert factor(150) == pytest.approx(0.02 + 0.98 / 4)
    assert factor(200) == factor(201) == pytest.approx(0.02)


def test_exponential_halves_after_warm_up_and_hold() -> None:
    factor = exponential(100, warmup=4, hold=6, halflife=20, floor=0.1)
    assert [factor(step) for step in (0, 4, 10)] == [0.2, 1.0, 1.0]
    assert [factor(step) for step in (30, 50)] == pytest.approx([0.5, 0.25])
    assert factor(99) == 0.1


def test_a_half_life_expresses_a_decay_per_epoch() -> None:
    epoch, gamma = 1000, 0.981
    factor = exponential(100_000, halflife=epoch * math.log(0.5) / math.log(gamma))
    assert factor(10 * epoch) == pytest.approx(gamma**10, rel=1e-3)


def test_constant_stays_at_one() -> None:
    factor = constant(10, warmup=3)
    assert [factor(step) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("schedule", [constant, cosine, exponential])
def test_a_fraction_below_one_is_of_the_run(schedule: Callable) -> None:
    fraction, number = schedule(200, warmup=0.1), schedule(200, warmup=20)
    assert [fraction(s) for s in range(200)] == [number(s) for s in range(200)]
    assert fraction(0) == 1 / 21


@pytest.mark.parametrize("schedule", ALL)
@pytest.mark.parametrize("steps", [1, 3, 1000])
def test_factors_are_fractions_that_fall_after_the_warm_up(schedule: Callable, steps: int) -> None:
    factors = [schedule(steps)(step) for step in range(steps + 2)]
    assert all(0 <= factor <= 1 for factor in factors)
    top = factors.index(1.0)
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)


@pytest.mark.parametrize("schedule", [constant, cosine, exponential])
@pytest.mark.parametrize("warmup", [100, -1])
def test_a_warm_up_must_fit_the_run(schedule: Callable, warmup: int) -> None:
    with pytest.raises(ValueError, match=f"warm-up of {warmup} in a run of 100 steps"):
        schedule(100, warmup=warmup)


def test_impossible_numbers_are_refused() -> None:
    for schedule in (cosine, polynomial_hold, exponential):
        with pytest.raises(ValueError, match=r"floor 1\.5"):
            schedule(100, floor=1.5)
    with pytest.raises(ValueError, match=r"hold_ratio 0\.9"):
        polynomial_hold(100, warmup_ratio=0.2, hold_ratio=0.9)
    with pytest.raises(ValueError, match="halflife 0"):
        exponential(100, halflife=0)
