"""Learning-rate schedules: the factor of the base rate at each step of a run of `steps` steps.

The factor is (step + 1) / (warmup + 1) until step `warmup`. `warmup`, `hold` and `halflife` are
numbers of steps, or fractions of the run if below 1. `floor` is a fraction of the base rate.
"""

import math
from collections.abc import Callable

Schedule = Callable[[int], float]


def constant(steps: int, warmup: float = 0) -> Schedule:
    """1 after the warm-up."""
    return _warmed_up(steps, warmup, lambda step: 1.0)


def cosine(steps: int, warmup: float = 0, floor: float = 0.0) -> Schedule:
    """floor + (1 − floor)·(1 + cos(π·p)) / 2, with p from 0 after the warm-up to 1 at the end.

    Loshchilov & Hutter, arXiv:1608.03983.
    """
    _check_floor(floor)
    start = _count(warmup, steps)

    def decayed(step: int) -> float:
        progress = _progress(step, start, steps)
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))

    return _warmed_up(steps, warmup, decayed)


def polynomial_hold(
    steps: int,
    warmup_ratio: float = 0.05,
    hold_ratio: float = 0.45,
    power: float = 2.0,
    floor: float = 0.0,
) -> Schedule:
    """1 for `hold_ratio` of the run, then floor + (1 − floor)·(1 − p)^power, p from 0 to 1.

    Both ratios are fractions of the run. As in MatchboxNet, arXiv:2004.08531.
    """
    _check_floor(floor)
    if min(warmup_ratio, hold_ratio) < 0 or warmup_ratio + hold_ratio > 1:
        raise ValueError(
            f"warmup_ratio {warmup_ratio}, hold_ratio {hold_ratio}: give at most 1 in all"
        )
    warmup = int(warmup_ratio * steps)
    start = int(hold_ratio * steps) + warmup

    def decayed(step: int) -> float:
        factor: float = floor + (1 - floor) * (1 - _progress(step, start, steps)) ** power
        return factor

    return _warmed_up(steps, warmup, decayed)


def exponential(
    steps: int, warmup: float = 0, hold: float = 0, halflife: float = 0.1, floor: float = 0.0
) -> Schedule:
    """1 for `hold` after the warm-up, then max(floor, 0.5^((step − start) / halflife)).

    A decay by γ per epoch is a half-life of log(0.5) / log(γ) epochs.
    """
    _check_floor(floor)
    if hold < 0 or halflife <= 0:
        raise ValueError(f"hold {hold}, halflife {halflife}: give hold from 0 up, halflife above 0")
    start = _count(warmup, steps) + _count(hold, steps)
    half = max(1, _count(halflife, steps))

    def decayed(step: int) -> float:
        factor: float = max(floor, 0.5 ** (max(0, step - start) / half))
        return factor

    return _warmed_up(steps, warmup, decayed)


def _warmed_up(steps: int, warmup: float, after: Schedule) -> Schedule:
    count = _count(warmup, steps)
    if not 0 <= count < steps:
        raise ValueError(
            f"warm-up of {warmup} in a run of {steps} steps: give fewer, or a fraction below 1"
        )
    return lambda step: (step + 1) / (count + 1) if step <= count else after(step)


def _count(given: float, steps: int) -> int:
    """A number of steps, from such a number or from a fraction of `steps`."""
    return int(given * steps) if 0 < given < 1 else int(given)


def _progress(step: int, start: int, end: int) -> float:
    """0 until `start`, 1 from `end` on, linear between."""
    if step < start:
        return 0.0
    return 1.0 if step >= end else (step - start) / (end - start)


def _check_floor(floor: float) -> None:
    if not 0 <= floor <= 1:
        raise ValueError(f"floor {floor}: give a fraction of the base rate, from 0 to 1")
