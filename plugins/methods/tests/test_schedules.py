"""The cosine with restarts."""

import pytest
from speechkit_methods.schedules import jagged

from speechkit.errors import ComponentError
from speechkit.train.schedules import cosine

STEPS = 200


def test_it_is_0_at_each_restart_and_else_rises_to_the_cosine() -> None:
    factor = jagged(STEPS, every=50, restart=10, warm=30, warmup=8, floor=0.2)
    envelope = cosine(STEPS, warmup=8, floor=0.2)
    restarts = [30, 80, 130, 180]
    for step in range(STEPS):
        last = max([k for k in restarts if k <= step], default=None)
        if last is None or step - last >= 10:
            assert factor(step) == envelope(step)
        else:
            target = envelope(last + 10)
            assert factor(step) == pytest.approx((step - last) / 10 * target, abs=1e-12)
    assert [step for step in range(STEPS) if factor(step) == 0] == restarts
    assert factor(40) == envelope(40)


def test_without_a_warm_start_the_first_restart_is_after_every_steps() -> None:
    factor = jagged(STEPS, every=60, restart=5)
    assert [step for step in range(STEPS) if factor(step) == 0] == [60, 120, 180]
    assert factor(0) == 1
    assert factor(STEPS) == pytest.approx(0.1)


@pytest.mark.parametrize(
    "given",
    [
        {"every": 10, "restart": 11},
        {"every": 0, "restart": 0},
        {"every": 50, "restart": 5, "warm": 20, "warmup": 20},
        {"every": 50, "restart": 5, "warm": -1},
    ],
)
def test_warm_ups_that_overlap_are_refused(given: dict[str, int]) -> None:
    with pytest.raises(ComponentError, match="give restart up to every"):
        jagged(STEPS, **given)
