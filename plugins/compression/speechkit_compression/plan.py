"""The best plan within a budget of time."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from speechkit_compression.segments import Segment


class Entry(NamedTuple):
    """A segment with its time, in whole units, and its importance."""

    segment: Segment
    time: int
    importance: float


def best_plan(entries: Iterable[Entry], count: int, budget: int) -> list[Entry] | None:
    """The segments of `count` sub-blocks with the largest sum of importances in `budget` units.

        D[j, t] = max over segments from i to j of D[i, t − T[i, j]] + I[i, j], D[0, ·] = 0

    Among equal plans it is the fastest. None if no plan is so fast. Kim et al., arXiv:2406.12837.
    """
    table = sorted(entries, key=lambda entry: entry.segment.stop)
    best = np.full((count + 1, budget + 1), -np.inf)
    best[0] = 0
    last = np.zeros((count + 1, budget + 1), np.int64)
    for number, (segment, time, importance) in enumerate(table):
        if time > budget:
            continue
        value = best[segment.start, : budget + 1 - time] + importance
        better = value > best[segment.stop, time:]
        best[segment.stop, time:][better] = value[better]
        last[segment.stop, time:][better] = number
    if best[count, budget] == -np.inf:
        return None
    at, left = count, int(np.argmax(best[count]))
    plan: list[Entry] = []
    while at:
        plan.insert(0, table[last[at, left]])
        at, left = plan[0].segment.start, left - plan[0].time
    return plan
