"""From frames of scores to events, one listener for each task; pure, with a state of plain data."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from speechkit import spotting, vad
from speechkit.decode.greedy import GreedyCTC, GreedyState, Token
from speechkit.events import Event, Final, Keyword, Partial, SpeechEnd, SpeechStart
from speechkit.models import MarbleNet, MatchboxNet, Model

PAUSE_S = 0.8
"""The time without a letter after which a text is final."""
SEGMENT_S = 0.63
"""What a clip-level MarbleNet hears at a time (arXiv:2010.13886)."""


class Listener(Protocol):
    """What turns one row's scores into events; `state` is a NamedTuple or dataclass."""

    def init(self) -> Any:
        """The state before the first frame."""
        ...

    def step(self, state: Any, scores: Tensor, decided_s: float) -> tuple[Any, list[Event]]:
        """The state and the events after valid frames `scores [T, n]`."""
        ...

    def finish(self, state: Any, decided_s: float) -> list[Event]:
        """The events that the end brings."""
        ...


class SpeechListener:
    """Starts and ends of speech from frame logits, whose class 1 is speech."""

    def __init__(self, post: vad.PostProcessing, frame_s: float, lag_s: float = 0.0) -> None:
        self.rule, self.frame_s, self.lag_s = post.rule(frame_s), frame_s, lag_s

    def init(self) -> vad.Listening:
        return vad.Listening()

    def step(
        self, state: vad.Listening, scores: Tensor, decided_s: float
    ) -> tuple[vad.Listening, list[Event]]:
        events = []
        for logits in scores.tolist():
            state, edge = vad.advance(self.rule, state, speech_probability(logits))
            if edge:
                events.append(self.event(edge, decided_s))
        return state, events

    def finish(self, state: vad.Listening, decided_s: float) -> list[Event]:
        edge = vad.finish(self.rule, state)
        return [self.event(edge, decided_s)] if edge else []

    def event(self, edge: vad.Edge, decided_s: float) -> Event:
        """What an edge is called, and when it was."""
        kind = SpeechStart if edge.starts else SpeechEnd
        at_s = max(0.0, edge.frame * self.frame_s - self.lag_s)
        return kind(at_s=at_s, decided_s=decided_s)


def speech_probability(logits: Sequence[float]) -> float:
    """The share of class 1 in a softmax; in Python, which for one frame is quicker than torch."""
    top = max(logits)
    shares = [math.exp(x - top) for x in logits]
    return shares[1] / sum(shares)


class KeywordListener:
    """A classifier's labels from the logits of its sliding window."""

    def __init__(self, rule: spotting.Spotting, labels: tuple[str, ...], frame_s: float) -> None:
        self.rule, self.labels, self.frame_s = rule, labels, frame_s

    def init(self) -> spotting.Hearing:
        return spotting.Hearing()

    def step(
        self, state: spotting.Hearing, scores: Tensor, decided_s: float
    ) -> tuple[spotting.Hearing, list[Event]]:
        events: list[Event] = []
        best = scores.softmax(1).max(1)
        for score, index in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            state, heard = spotting.advance(self.rule, self.frame_s, state, index, score)
            if heard:
                at_s = state.frames * self.frame_s
                events.append(Keyword(self.labels[index], score, at_s, decided_s))
        return state, events

    def finish(self, state: spotting.Hearing, decided_s: float) -> list[Event]:
        return []


@dataclass(frozen=True)
class Reading:
    """What a `TextListener` remembers: the decoder's state, and its text."""

    frames: int
    last: int
    tokens: tuple[Token, ...]
    said: str = ""

    @property
    def decoder(self) -> GreedyState:
        return GreedyState(self.frames, self.last, tuple(Token(*token) for token in self.tokens))


class TextListener:
    """Text from CTC log-probabilities: partial as it grows, final after a pause."""

    def __init__(self, labels: tuple[str, ...], frame_s: float) -> None:
        self.decoder, self.frame_s = GreedyCTC(labels), frame_s

    def init(self) -> Reading:
        return Reading(*self.decoder.init())

    def step(self, state: Reading, scores: Tensor, decided_s: float) -> tuple[Reading, list[Event]]:
        events: list[Event] = []
        said = state.said
        # frame by frame, so that a pause is found at the same place in every chunking
        for row in scores.split(1):
            decoded, text = self.decoder.step(state.decoder, row)
            state = Reading(*decoded, said=text.strip())
            if state.said and (state.frames - self._end(state)) * self.frame_s >= PAUSE_S:
                events.append(self._final(state, decided_s))
                # a pause ends in a blank or a space, which may well go on
                state, said = Reading(state.frames, self.decoder.blank, ()), ""
        if state.said != said:
            events.append(Partial(state.said, state.frames * self.frame_s, decided_s))
        return state, events

    def finish(self, state: Reading, decided_s: float) -> list[Event]:
        return [self._final(state, decided_s)] if state.said else []

    def _final(self, state: Reading, decided_s: float) -> Final:
        words = self.decoder.words(state.decoder, self.frame_s)
        return Final(state.said, words, self._end(state) * self.frame_s, decided_s)

    def _end(self, state: Reading) -> int:
        """The frame after the last letter."""
        labels = self.decoder.labels
        return max((t.end for t in state.decoder.tokens if labels[t.id] != " "), default=0)


def clip_window_s(model: Model) -> float | None:
    """How far back a clip classifier's scores reach in a stream; None for other models."""
    if not model.per_clip:
        return None
    config = model.config
    return config.spotting.window_s if isinstance(config, MatchboxNet) else SEGMENT_S


def listener_of(model: Model, frame_s: float | None = None) -> Listener:
    """The listener for what the model is for, over frames of `frame_s` (the model's if None)."""
    config, frame_s = model.config, frame_s or model.frame_s
    if isinstance(config, MarbleNet):
        # a window's score speaks for its middle
        lag_s = SEGMENT_S / 2 if model.per_clip else 0.0
        return SpeechListener(config.postprocess, frame_s, lag_s)
    if isinstance(config, MatchboxNet):
        return KeywordListener(config.spotting, model.labels, frame_s)
    return TextListener(model.labels, frame_s)
