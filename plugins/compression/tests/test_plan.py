"""The dynamic program finds the best plan."""

import random
from collections.abc import Iterator

import pytest
from speechkit_compression.plan import Entry, best_plan
from speechkit_compression.segments import Segment


def table(count: int, seed: int) -> list[Entry]:
    """Drawn times and importances of all segments of `count` sub-blocks."""
    chance = random.Random(seed)
    return [
        Entry(Segment(start, split, stop), chance.randint(0, 9), chance.choice((0.5, 1.0)))
        for start in range(count)
        for stop in range(start + 1, count + 1)
        for split in range(start, stop)
    ]


def plans(entries: list[Entry], count: int, start: int = 0) -> Iterator[list[Entry]]:
    """Every plan."""
    if start == count:
        yield []
    for entry in entries:
        if entry.segment.start == start:
            yield from ([entry, *rest] for rest in plans(entries, count, entry.segment.stop))


@pytest.mark.parametrize("count", range(1, 7))
def test_it_is_the_best_of_all_at_every_budget(count: int) -> None:
    entries = table(count, seed=count)
    known = [
        (sum(e.time for e in plan), sum(e.importance for e in plan))
        for plan in plans(entries, count)
    ]
    for budget in range(9 * count + 1):
        fits = [(value, -time) for time, value in known if time <= budget]
        plan = best_plan(entries, count, budget)
        if not fits:
            assert plan is None
            continue
        assert plan
        time, value = sum(e.time for e in plan), sum(e.importance for e in plan)
        assert time <= budget
        assert value == max(fits)[0]
        # of equal ones it is the fastest
        assert time == -max(fits)[1]


def test_its_segments_follow_each_other() -> None:
    plan = best_plan(table(6, seed=0), 6, 20)
    assert plan
    ends = [0, *(entry.segment.stop for entry in plan)]
    assert [entry.segment.start for entry in plan] == ends[:-1]
    assert ends[-1] == 6
