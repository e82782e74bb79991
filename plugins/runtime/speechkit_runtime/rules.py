"""Rules from scores to speech, keywords and text, frame by frame, equal to those of speechkit."""

import math
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

Event = dict[str, Any]
"""An event: `event`, `at_s`, `decided_s`, and the fields of that kind of event."""
Metadata = dict[str, Any]

SURE = 1e-6
"""Scores are kept this far from 0 and 1."""
LEVELS = 1000
"""The least probability is found in steps of a thousandth."""


def softmax(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities of logits over the last axis."""
    powers: NDArray[np.float32] = np.exp(scores - scores.max(axis=-1, keepdims=True))
    powers /= powers.sum(axis=-1, keepdims=True)
    return powers


class Speech:
    """Starts and ends of speech; the class 1 is speech. The rule of `speechkit.rules.vad`.

    `began` is where the probability last reached the onset, `ended` where the last long enough
    segment fell below the offset; −1 stands for none. `edge` is the frame of the last edge, and
    `pause` the frame where the current segment would be split, of probability `level`.
    """

    def __init__(self, metadata: Metadata, frame_s: float, lag_s: float = 0.0) -> None:
        post = metadata["postprocess"]

        def frames(name: str) -> int:
            return round(float(post[name]) / 1000 / frame_s)

        self.frame_s, self.lag_s = frame_s, lag_s
        self.onset, self.offset = post["onset"], post["offset"]
        self.before, self.after = frames("pad_onset_ms"), frames("pad_offset_ms")
        self.shortest = max(1, frames("min_speech_ms"))
        self.gap = max(frames("min_silence_ms"), self.before + self.after + 1)
        # earlier files have no longest segment
        longest_s = post.get("max_speech_s")
        self.longest = math.inf
        if longest_s is not None:
            self.longest = max(int(longest_s / frame_s + 1e-6), self.before + self.shortest + 1)
        self.frames, self.began, self.ended, self.speaking = 0, -1, -1, False
        self.edge, self.pause, self.level = 0, -1, 0

    def step(self, scores: NDArray[np.float32], decided_s: float) -> list[Event]:
        """The events of logits `[T, 2]`."""
        return self.advance(softmax(scores)[:, 1], decided_s)

    def advance(self, probabilities: NDArray[np.float32], decided_s: float) -> list[Event]:
        """The events of probabilities of speech `[T]`."""
        events: list[Event] = []

        def write(name: str) -> None:
            events.append(self._event(name, self.edge, decided_s))

        for probability in probabilities.tolist():
            now = self.frames
            if self.began < 0 and probability >= self.onset:
                self.began = now
            elif self.began >= 0 and probability < self.offset:
                if now - self.began >= self.shortest:
                    self.ended = now
                self.began = -1
            if self.speaking and 2 * (now - self.edge) >= self.longest:
                here = min(int(probability * LEVELS), LEVELS - 1)
                if self.pause < 0 or here <= self.level:
                    self.pause, self.level = now, here
            if self.began >= 0 and now + 1 - self.began >= self.shortest:
                self.ended = -1
                if not self.speaking:
                    self.speaking, self.pause = True, -1
                    self.edge = max(self.edge, self.began - self.before)
                    write("speech_start")
            elif self.began < 0 and self.speaking and now + 1 - self.ended >= self.gap:
                self.speaking, self.edge = False, self.ended + self.after
                write("speech_end")
            if self.speaking and now + 1 - self.edge >= self.longest:
                # within a pause the segment ends where it would if the pause went on
                self.speaking = self.ended < 0 or self.pause < self.ended
                within = min(self.pause, self.ended + self.after)
                self.edge = self.pause if self.speaking else within
                write("speech_end")
                if self.speaking:
                    write("speech_start")
                self.pause = -1
            self.frames += 1
        return events

    def finish(self, decided_s: float) -> list[Event]:
        """The end of a segment that is still open after the last frame."""
        if not self.speaking:
            return []
        # a run too short to count does not move the end before it
        ended = self.ended if self.ended >= 0 else self.frames
        frame = min(ended + self.after, self.frames)
        return [self._event("speech_end", frame, decided_s)]

    def _event(self, name: str, frame: int, decided_s: float) -> Event:
        # the last frame may reach beyond the sound's end
        at_s = min(max(0.0, frame * self.frame_s - self.lag_s), decided_s)
        return {"event": name, "at_s": at_s, "decided_s": decided_s}


class Keywords:
    """A classifier's labels in a stream. The rule of `speechkit.rules.spotting`.

    `label` has been the best and above the threshold for `held` frames; `spoken` is that detected
    last, and `silent` counts the frames since it was above the threshold.
    """

    def __init__(self, metadata: Metadata) -> None:
        rule, self.frame_s = metadata["spotting"], metadata["frame_s"]
        self.labels, self.threshold = metadata["labels"], rule["threshold"]
        # earlier files have no silent labels
        self.silent_labels = set(rule.get("silent", ()))
        self.hold, self.pause = (
            max(1, round(rule[name] / 1000 / self.frame_s)) for name in ("hold_ms", "pause_ms")
        )
        self.frames, self.label, self.held, self.spoken, self.silent = 0, -1, 0, -1, 0

    def step(self, scores: NDArray[np.float32], decided_s: float) -> list[Event]:
        """The events of logits `[T, n]`."""
        events: list[Event] = []
        for row in softmax(scores):
            best = int(row.argmax())
            score = float(row[best])
            possible = score >= self.threshold and self.labels[best] not in self.silent_labels
            above = best if possible else -1
            self.held = self.held + 1 if above >= 0 and above == self.label else int(above >= 0)
            self.silent = 0 if above == self.spoken else self.silent + 1
            if self.silent >= self.pause:
                self.spoken = -1
            self.frames, self.label = self.frames + 1, above
            if self.held >= self.hold and above != self.spoken:
                self.spoken, self.silent = above, 0
                at_s = min(self.frames * self.frame_s, decided_s)
                named = {"event": "keyword", "label": self.labels[above], "score": score}
                events.append({**named, "at_s": at_s, "decided_s": decided_s})
        return events

    def finish(self, decided_s: float) -> list[Event]:
        """No events: a label is returned as soon as it is detected."""
        return []


@dataclass
class Token:
    """A label on the frames `start` … `end` − 1, and its highest probability there."""

    text: str
    start: int
    end: int
    score: float


@dataclass
class Letters:
    """Greedy CTC decoding: repeats are collapsed, and the blank, which is last, is dropped."""

    labels: list[str]
    frames: int = 0
    last: int = -1
    tokens: list[Token] = field(default_factory=list)

    def read(self, row: NDArray[np.float32]) -> None:
        """One frame of log-probabilities `[V + 1]`."""
        best = int(row.argmax())
        score = float(np.exp(row[best]))
        if best < len(self.labels):
            if best == self.last:
                token = self.tokens[-1]
                token.end, token.score = self.frames + 1, max(token.score, score)
            else:
                text = self.labels[best]
                self.tokens.append(Token(text, self.frames, self.frames + 1, score))
        self.frames, self.last = self.frames + 1, best

    @property
    def text(self) -> str:
        """What was read."""
        return "".join(token.text for token in self.tokens).strip()


@dataclass
class Endpoint:
    """Endpointing of text. The rule of `speechkit.rules.endpointing`.

    `frames` counts the frames of the segment, `silent` the last ones without a letter, and `spoken`
    is True if there was a letter.
    """

    before: int
    after: int
    longest: int
    frames: int = 0
    silent: int = 0
    spoken: bool = False

    @classmethod
    def of(cls, metadata: Metadata) -> "Endpoint":
        """The rule of a file, in frames."""
        rule, frame_s = metadata["endpointing"], metadata["frame_s"]
        names = "silence_before_s", "silence_after_s", "longest_s"
        return cls(*(max(1, round(rule[name] / frame_s)) for name in names))

    def advance(self, silent: bool) -> bool:
        """True if the segment ends with this frame."""
        self.frames += 1
        self.spoken = self.spoken or not silent
        self.silent = self.silent + 1 if silent else 0
        pause = self.after if self.spoken else self.before
        ends = self.silent >= pause or self.frames >= self.longest
        if ends:
            self.frames, self.silent, self.spoken = 0, 0, False
        return ends


class Text:
    """Greedy text in a stream: partial as it grows, final where a segment ends."""

    def __init__(self, metadata: Metadata) -> None:
        self.frame_s, self.early_s = metadata["frame_s"], metadata["early_s"]
        self.confidence = metadata["confidence"]
        self.endpoint = Endpoint.of(metadata)
        self.begun, self.letters, self.spoken = 0, Letters(metadata["labels"]), ""

    def step(self, scores: NDArray[np.float32], decided_s: float) -> list[Event]:
        """The events of log-probabilities `[T, V + 1]`."""
        events: list[Event] = []
        before = self.spoken
        labels = [*self.letters.labels, " "]
        for row in scores:
            self.letters.read(row)
            self.spoken = self.letters.text
            if self.endpoint.advance(silent=labels[self.letters.last] == " "):
                events += self.finish(decided_s)
                self.begun = self.letters.frames
                self.letters = Letters(self.letters.labels, self.begun)
                self.spoken = before = ""
        if self.spoken != before:
            at_s = min(self.letters.frames * self.frame_s, decided_s)
            # greedy text does not change later
            named = {"event": "partial", "text": self.spoken, "stable": self.spoken}
            events.append({**named, "at_s": at_s, "decided_s": decided_s})
        return events

    def finish(self, decided_s: float) -> list[Event]:
        """The text of the segment that ends here."""
        if not self.spoken:
            return []
        words = self._words(min(self.letters.frames * self.frame_s, decided_s))
        named = {"event": "final", "text": self.spoken, "words": words}
        return [{**named, "at_s": words[-1]["end_s"], "decided_s": decided_s}]

    def _words(self, end_s: float) -> list[dict[str, Any]]:
        """The words with times up to `end_s`, equal to those of `speechkit.text.align`, since the
        greedy path is the best path of its text."""
        words, said_until_s = [], self.begun * self.frame_s
        for is_space, group in groupby(self.letters.tokens, lambda token: token.text == " "):
            if is_space:
                continue
            part = list(group)
            start_s = max(said_until_s, part[0].start * self.frame_s - self.early_s)
            said_until_s = part[-1].end * self.frame_s
            words.append(
                {
                    "text": "".join(token.text for token in part),
                    "start_s": min(start_s, end_s),
                    "end_s": min(said_until_s, end_s),
                    "score": calibrated(math.prod(t.score for t in part), self.confidence),
                }
            )
        return words


def calibrated(p: float, confidence: tuple[float, float]) -> float:
    """The calibrated score for `p`, by the model's scale and bias of the logit."""
    scale, bias = confidence
    p = min(max(p, SURE), 1 - SURE)
    return (1 + math.tanh((scale * math.log(p / (1 - p)) + bias) / 2)) / 2
