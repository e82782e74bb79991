"""The schedule of two stages."""

import pytest
from speechkit_methods.two_stage import two_stage


def test_the_first_stage_is_small_and_the_second_is_the_base_rate() -> None:
    schedule = two_stage(100, switch=30, first=0.2)
    assert [schedule(step) for step in (0, 29, 30, 99)] == [0.2, 0.2, 1.0, 1.0]


def test_a_fraction_is_one_of_the_run() -> None:
    schedule = two_stage(100, switch=0.25)
    assert [schedule(step) for step in (24, 25)] == [0.1, 1.0]


@pytest.mark.parametrize("settings", [{"switch": 0}, {"first": 1.0}])
def test_without_a_first_stage_or_with_one_of_the_same_rate_it_is_constant(
    settings: dict[str, float],
) -> None:
    schedule = two_stage(10, **settings)
    assert {schedule(step) for step in range(10)} == {1.0}


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"switch": 10}, "switch=10 in a run of 10 steps"),
        ({"switch": -1}, "switch=-1"),
        ({"first": 0}, "first=0; give a fraction"),
        ({"first": 1.5}, "first=1.5; give a fraction"),
    ],
)
def test_other_numbers_are_refused(settings: dict[str, float], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        two_stage(10, **settings)
