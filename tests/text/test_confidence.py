"""Scores that say how often a model is right."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechkit.tasks.metrics import calibration_error, reliability
from speechkit.text.confidence import calibrated, fit


@given(st.floats(0, 1))
def test_one_and_zero_leave_a_score_as_it_is(p: float) -> None:
    assert calibrated(p, (1.0, 0.0)) == pytest.approx(p, abs=2e-6)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=30))
def test_a_fit_keeps_the_order_of_scores(pairs: list[tuple[float, bool]]) -> None:
    scores, right = zip(*pairs, strict=True)
    found = fit(scores, right)
    after = [calibrated(p, found) for p in sorted(scores)]
    assert all(0 <= p <= 1 for p in after)
    assert all(b - a >= -1e-12 for a, b in pairwise(after))


def test_a_fit_makes_scores_as_high_as_words_are_right() -> None:
    chance = np.random.default_rng(0)
    true = chance.uniform(0.02, 0.98, 5000)
    right = (chance.uniform(size=5000) < true).tolist()
    claimed = [calibrated(p, (2.0, 1.5)) for p in true]
    found = fit(claimed, right)
    assert found == pytest.approx((0.5, -0.75), abs=0.08)
    after = [calibrated(p, found) for p in claimed]
    assert calibration_error(reliability(claimed, right)) > 0.15
    assert calibration_error(reliability(after, right)) < 0.03


def test_scores_that_mislead_become_the_share_that_is_right() -> None:
    found = fit([0.9] * 10 + [0.1] * 10, [False] * 10 + [True] * 10)
    assert found == pytest.approx((0.0, 0.0))


@pytest.mark.parametrize("right", [True, False])
def test_without_both_kinds_the_slope_stays(right: bool) -> None:
    scores = [0.99, 0.9, 0.7, 0.4]
    scale, bias = fit(scores, [right] * 4)
    assert scale == 1
    after = [calibrated(p, (scale, bias)) for p in scores]
    assert after == sorted(set(after), reverse=True)
    # the mean score is the share that is right, drawn in by one example of each kind
    assert sum(after) / 4 == pytest.approx(5 / 6 if right else 1 / 6, abs=1e-3)


def test_words_that_are_all_right_can_be_fitted() -> None:
    scale, bias = fit([0.5] * 100, [True] * 100)
    assert calibrated(0.5, (scale, bias)) == pytest.approx(101 / 102, abs=1e-3)
