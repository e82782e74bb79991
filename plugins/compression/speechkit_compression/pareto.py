"""The best of several things that each have a cost and an error."""

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def front(items: Iterable[T], cost: Callable[[T], float], error: Callable[[T], float]) -> list[T]:
    """The items, cheapest first, that no other item equals or beats in both cost and error.

    Of equal items the first one is kept.
    """
    kept: list[T] = []
    for item in sorted(items, key=lambda item: (cost(item), error(item))):
        if not kept or error(item) < error(kept[-1]):
            kept.append(item)
    return kept
