"""Greedy CTC decoding of one chunk after another."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from speechkit.text import collapsed, decode


class GreedyState(NamedTuple):
    """The last frame's id, which may be the blank, and the ids of the text."""

    last: int
    read: tuple[int, ...]


class GreedyCTC:
    """Greedy decoding chunk by chunk; the whole gives the same text as `text.greedy_ctc`."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = tuple(labels)
        self.blank = len(self.labels)

    def init(self) -> GreedyState:
        return GreedyState(self.blank, ())

    def step(self, state: GreedyState, log_probs: NDArray[np.float32]) -> tuple[GreedyState, str]:
        """The next state and the text so far, after valid frames log_probs `[T, V + 1]`."""
        best = log_probs.argmax(1).tolist()
        read = state.read + tuple(collapsed(best, state.last, self.blank))
        state = GreedyState(best[-1] if best else state.last, read)
        return state, self.finish(state)

    def finish(self, state: GreedyState) -> str:
        """The whole text."""
        return decode(state.read, self.labels)

    def ids(self, state: GreedyState) -> tuple[int, ...]:
        """The label ids of the text."""
        return state.read

    def stable(self, state: GreedyState) -> str:
        """The beginning of the text that no further frame can change: all of it."""
        return self.finish(state)

    def restore(self, values: Sequence[Any]) -> GreedyState:
        """The state from its nested lists, as JSON stores it."""
        last, read = values
        return GreedyState(last, tuple(read))
