"""The greedy reading of CTC scores, chunk by chunk."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

from torch import Tensor

from speechkit.events import Word
from speechkit.text import decode


class Token(NamedTuple):
    """A label on the frames `start` … `end` − 1, and its highest probability there."""

    id: int
    start: int
    end: int
    score: float


class GreedyState(NamedTuple):
    """What a greedy decoder remembers: the frames so far, the last one's id, and the tokens."""

    frames: int
    last: int
    tokens: tuple[Token, ...]


class GreedyCTC:
    """Reads CTC scores chunk by chunk: the joined chunks give the text of `text.greedy_ctc`."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = tuple(labels)
        self.blank = len(self.labels)

    def init(self) -> GreedyState:
        return GreedyState(0, self.blank, ())

    def step(self, state: GreedyState, log_probs: Tensor) -> tuple[GreedyState, str]:
        """The next state and the text so far, after valid frames log_probs `[T, V + 1]`."""
        frame, last, tokens = state.frames, state.last, list(state.tokens)
        best = log_probs.max(dim=1)
        for score, label in zip(best.values.exp().tolist(), best.indices.tolist(), strict=True):
            if label != self.blank:
                if label == last:
                    before = tokens.pop()
                    token = before._replace(end=frame + 1, score=max(before.score, score))
                else:
                    token = Token(label, frame, frame + 1, score)
                tokens.append(token)
            frame, last = frame + 1, label
        state = GreedyState(frame, last, tuple(tokens))
        return state, self.finish(state)

    def finish(self, state: GreedyState) -> str:
        """The whole text."""
        return decode(self.ids(state), self.labels)

    def ids(self, state: GreedyState) -> tuple[int, ...]:
        """The label ids of the text."""
        return tuple(token.id for token in state.tokens)

    def stable(self, state: GreedyState) -> str:
        """The beginning of the text that no further frame can change: all of it."""
        return self.finish(state)

    def restore(self, values: Sequence[Any]) -> GreedyState:
        """The state from its nested lists, as JSON stores it."""
        frames, last, tokens = values
        return GreedyState(frames, last, tuple(Token(*token) for token in tokens))

    def words(self, state: GreedyState, frame_s: float) -> tuple[Word, ...]:
        """The words that spaces part; a word's score is the mean of its labels'."""
        found = []
        for is_space, group in groupby(state.tokens, lambda t: self.labels[t.id] == " "):
            if not is_space:
                part = list(group)
                score = sum(token.score for token in part) / len(part)
                text = decode((token.id for token in part), self.labels)
                found.append(Word(text, part[0].start * frame_s, part[-1].end * frame_s, score))
        return tuple(found)
