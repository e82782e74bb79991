"""The best of things that have a cost and an error."""

from hypothesis import given
from hypothesis import strategies as st
from speechkit_compression.pareto import front

Pair = tuple[int, float]


def of(items: list[Pair]) -> list[Pair]:
    return front(items, lambda item: item[0], lambda item: item[1])


def test_what_another_item_equals_or_beats_is_left_out() -> None:
    assert of([(5, 0.5), (3, 0.6), (4, 0.6), (3, 0.7), (9, 0.1)]) == [(3, 0.6), (5, 0.5), (9, 0.1)]
    assert of([(3, 0.1), (2, 0.1), (1, 0.05)]) == [(1, 0.05)]
    assert of([]) == []


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from([0.0, 0.25, 0.5, 1.0]))))
def test_each_item_is_equalled_by_one_of_the_front_and_none_of_the_front_beats_another(
    items: list[Pair],
) -> None:
    found = of(items)
    for cost, error in items:
        assert any(c <= cost and e <= error for c, e in found)
    for one in found:
        for other in found:
            assert one is other or one[0] > other[0] or one[1] > other[1]
    assert found == sorted(found)
