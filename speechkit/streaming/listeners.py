"""Listeners: pure functions from scores to events, one for each task, with a plain state."""

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from speechkit.component import Spec
from speechkit.decode import Decoder, decoder_of
from speechkit.errors import ConfigError, SpeechkitError, StreamError
from speechkit.events import Event, Final, Keyword, Listener, Partial, SpeechEnd, SpeechStart
from speechkit.predictions import Known
from speechkit.rules import spotting, vad
from speechkit.rules.endpointing import Endpointing, Segment, advance
from speechkit.rules.probability import softmax, speech_probability
from speechkit.streaming.state import AGAIN, check_array, checked, remembered
from speechkit.text import decode
from speechkit.text.align import mean_score, words_of
from speechkit.text.confidence import Confidence
from speechkit.units import rounded_s

Scores = NDArray[np.float32]
"""The scores of valid frames, `[T, n]`."""

SEGMENT_S = 0.63
"""What a detector of clips reads at a time (arXiv:2010.13886)."""


class SpeechListener:
    """Starts and ends of speech from frame logits, whose class 1 is speech."""

    def __init__(self, post: vad.PostProcessing, frame_s: float, lag_s: float = 0.0) -> None:
        self.rule, self.frame_s, self.lag_s = post.rule(frame_s), frame_s, lag_s

    def by(self, post: vad.PostProcessing) -> "SpeechListener":
        """The same for the same scores, by another rule."""
        return SpeechListener(post, self.frame_s, self.lag_s)

    def init(self) -> vad.State:
        return vad.State()

    def step(
        self, state: vad.State, scores: Scores, decided_s: float
    ) -> tuple[vad.State, list[Event]]:
        events: list[Event] = []
        for logits in scores.tolist():
            state, edges = vad.advance(self.rule, state, speech_probability(logits))
            events += [self.event(edge, decided_s) for edge in edges]
        return state, events

    def finish(self, state: vad.State, decided_s: float) -> list[Event]:
        edge = vad.finish(self.rule, state)
        return [self.event(edge, decided_s)] if edge else []

    def restore(self, values: dict[str, Any]) -> vad.State:
        state = remembered(vad.State, values)
        now, last = state.frames, state.frames - 1
        if not (
            max(state.began, state.ended, state.pause) <= last
            and min(state.frames, state.edge) >= 0
            and state.edge <= now + self.rule.after
            and 0 <= state.level < vad.LEVELS
        ):
            raise StreamError(f"the state is damaged: its frames are out of order; {AGAIN}")
        return state

    def event(self, edge: vad.Edge, decided_s: float) -> Event:
        """The event of an edge."""
        kind = SpeechStart if edge.starts else SpeechEnd
        # the last frame may reach beyond the sound's end
        at_s = min(max(0.0, rounded_s(edge.frame * self.frame_s - self.lag_s)), decided_s)
        return kind(at_s=at_s, decided_s=decided_s)


class KeywordListener:
    """A classifier's labels from the logits of its sliding window."""

    def __init__(self, rule: spotting.Spotting, labels: tuple[str, ...], frame_s: float) -> None:
        self.rule, self.labels, self.frame_s = rule, labels, frame_s
        # the index of each label, −1 for those that are never reported
        self._reported = [-1 if name in rule.silent else i for i, name in enumerate(labels)]

    def init(self) -> spotting.State:
        return spotting.State()

    def step(
        self, state: spotting.State, scores: Scores, decided_s: float
    ) -> tuple[spotting.State, list[Event]]:
        events: list[Event] = []
        probabilities = softmax(scores)
        best = probabilities.argmax(1)
        for score, index in zip(probabilities.max(1).tolist(), best.tolist(), strict=True):
            label = self._reported[index]
            state, spotted = spotting.advance(self.rule, self.frame_s, state, label, score)
            if spotted:
                at_s = min(rounded_s(state.frames * self.frame_s), decided_s)
                events.append(Keyword(self.labels[index], score, at_s, decided_s))
        return state, events

    def finish(self, state: spotting.State, decided_s: float) -> list[Event]:
        return []

    def restore(self, values: dict[str, Any]) -> spotting.State:
        return remembered(spotting.State, values)


@dataclass(frozen=True)
class Reading:
    """The state of a `TextListener` for one segment.

    It holds the first frame, the states of the endpointing rule and the decoder, the text so far,
    and the log-probabilities `[T, V + 1]` for the times and scores of words.
    """

    begun: int
    segment: Segment
    decoded: Any
    said: str
    log_probs: Scores

    @property
    def frames(self) -> int:
        """The frame after the last one."""
        return self.begun + len(self.log_probs)


class TextListener:
    """Text from CTC log-probabilities: partial as it grows, final where a segment ends."""

    def __init__(
        self,
        decoder: Decoder,
        frame_s: float,
        endpointing: Endpointing,
        confidence: Confidence = (1.0, 0.0),
    ) -> None:
        self.decoder, self.frame_s, self.confidence = decoder, frame_s, confidence
        self.rule, self.least_score = endpointing.rule(frame_s), endpointing.least_score
        self.blank = len(decoder.labels)
        self.silent = {self.blank, *(i for i, name in enumerate(decoder.labels) if name == " ")}

    def init(self) -> Reading:
        return self._begin(0)

    def step(self, state: Reading, scores: Scores, decided_s: float) -> tuple[Reading, list[Event]]:
        events: list[Event] = []
        scores, shown, start = np.asarray(scores, np.float32), state.said, 0
        # segment ends are found first, so that the decoder gets many frames at a time
        segment = state.segment
        for frame, label in enumerate(scores.argmax(1).tolist(), start=1):
            segment, end = advance(self.rule, segment, label in self.silent)
            if end:
                state = self._read(state, scores[start:frame])
                events += self._ended(state, shown, decided_s)
                state, shown, start = self._begin(state.frames), "", frame
        state = replace(self._read(state, scores[start:]), segment=segment)
        if state.said != shown:
            stable = self.decoder.stable(state.decoded).strip()
            at_s = min(rounded_s(state.frames * self.frame_s), decided_s)
            events.append(Partial(state.said, stable, at_s, decided_s))
        return state, events

    def finish(self, state: Reading, decided_s: float) -> list[Event]:
        return self._ended(state, state.said, decided_s)

    def restore(self, values: dict[str, Any]) -> Reading:
        kinds = {"begun": int, "segment": dict, "decoded": object, "said": str}
        reading = checked(values, {**kinds, "log_probs": np.ndarray})
        log_probs = reading["log_probs"]
        check_array(
            "log_probs", log_probs, np.empty((*log_probs.shape[:1], self.blank + 1), np.float32)
        )
        try:
            decoded = self.decoder.restore(reading["decoded"])
            decode(self.decoder.ids(decoded), self.decoder.labels)
        except (SpeechkitError, IndexError, KeyError, TypeError, ValueError) as error:
            raise StreamError(
                "this state was not made with this decoder; restore it into a stream with the same"
            ) from error
        segment = remembered(Segment, reading["segment"])
        return Reading(**{**reading, "segment": segment, "decoded": decoded})

    def _begin(self, frame: int) -> Reading:
        """The state at the beginning of the segment that starts with a frame."""
        nothing = np.empty((0, self.blank + 1), np.float32)
        return Reading(frame, Segment(), self.decoder.init(), "", nothing)

    def _read(self, state: Reading, scores: Scores) -> Reading:
        """The state after more frames of the same segment."""
        decoded, text = self.decoder.step(state.decoded, scores)
        log_probs = np.concatenate([state.log_probs, scores])
        return replace(state, decoded=decoded, said=text.strip(), log_probs=log_probs)

    def _ended(self, state: Reading, shown: str, decided_s: float) -> list[Event]:
        """The events of a segment at its end, `shown` being its last partial text."""
        end_s = min(rounded_s(state.frames * self.frame_s), decided_s)
        text = self.decoder.finish(state.decoded).strip()
        words = words_of(
            state.log_probs,
            self.decoder.ids(state.decoded),
            self.decoder.labels,
            self.frame_s,
            begin_s=state.begun * self.frame_s,
            end_s=end_s,
            confidence=self.confidence,
        )
        if not text or mean_score(words) < self.least_score:
            return [Partial("", "", end_s, decided_s)] if shown else []
        return [Final(text, words, words[-1].end_s, decided_s)]


class Decides(Known, Protocol):
    """The properties of a model that a listener needs: its task, or the `About` of a plan."""

    @property
    def decodes(self) -> bool:
        """Whether scores are CTC log-probabilities, blank last."""

    @property
    def detects(self) -> bool:
        """Whether class 1 is speech."""

    @property
    def per_clip(self) -> bool:
        """Whether the scores are those of the last seconds."""

    @property
    def normalization(self) -> str:
        """The name of the normalisation of texts."""


def listener_for(
    about: Decides, frame_s: float, decoder: Decoder | Spec | str | None = None
) -> Listener:
    """The listener for scores of a model, one frame every `frame_s`; a `decoder` is for text.

    A model that decodes gives text, greedily if `decoder` is None. One that detects gives starts
    and ends of speech; any other gives keywords.
    """
    if about.decodes:
        named = "greedy" if decoder is None else decoder
        reader = decoder_of(named, about.labels, about.normalization)
        return TextListener(reader, frame_s, about.rule(Endpointing), about.confidence)
    if decoder is not None:
        raise ConfigError("a decoder is for recognition; leave it out for other models")
    if about.detects:
        # a window's score is that of its middle
        lag_s = SEGMENT_S / 2 if about.per_clip else 0.0
        return SpeechListener(about.rule(vad.PostProcessing), frame_s, lag_s)
    return KeywordListener(about.rule(spotting.Spotting), about.labels, frame_s)


def caption_for(about: Decides, scores: Scores) -> str:
    """One frame's scores `[n]` in words: the probability of speech or of the best label, or ""."""
    if about.decodes:
        return ""
    probabilities = softmax(scores)
    index = 1 if about.detects else int(probabilities.argmax())
    return f"{about.labels[index]} {float(probabilities[index]):.2f}"


@dataclass(frozen=True)
class Nothing:
    """The state of a listener that remembers nothing."""


class Silent:
    """Gives no events, for scores whose meaning is not known."""

    def init(self) -> Nothing:
        return Nothing()

    def step(self, state: Nothing, scores: Scores, decided_s: float) -> tuple[Nothing, list[Event]]:
        return state, []

    def finish(self, state: Nothing, decided_s: float) -> list[Event]:
        return []

    def restore(self, values: dict[str, Any]) -> Nothing:
        return Nothing()
