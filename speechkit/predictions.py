"""Predictions from scores: the label of a clip, the segments of speech, and transcripts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from speechkit.io.arrays import Numbers, array_of
from speechkit.rules import vad
from speechkit.rules.probability import softmax
from speechkit.text import decode
from speechkit.text.align import characters_of, words_from_characters
from speechkit.text.confidence import Confidence
from speechkit.text.transcript import Transcript

T = TypeVar("T")


@dataclass(frozen=True)
class Label:
    """The label of a clip, its probability, and those of all labels."""

    label: str
    score: float
    scores: dict[str, float]


@dataclass(frozen=True)
class Segment:
    """A segment of speech, in seconds."""

    start_s: float
    end_s: float


class Known(Protocol):
    """The properties of a model that predictions need: a `Model`, its task, or a plan's `About`."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the scores."""

    @property
    def frame_s(self) -> float:
        """The time from one frame of scores to the next, in seconds."""

    @property
    def confidence(self) -> Confidence:
        """The scale and bias of a word's score."""

    def rule(self, kind: type[T]) -> T:
        """The model's rule of a kind, or the kind's defaults."""


def label_of(about: Known, logits: NDArray[Any] | Numbers) -> Label:
    """The most probable label for clip logits `[n]`."""
    scores = dict(zip(about.labels, softmax(array_of(logits)).tolist(), strict=True))
    best = max(scores, key=scores.__getitem__)
    return Label(best, scores[best], scores)


def segments_of(
    about: Known, speech: NDArray[Any], frame_s: float, duration_s: float = math.inf
) -> list[Segment]:
    """The segments of speech in probabilities `[T]` by the model's `postprocess`, cut at
    `duration_s`."""
    post = about.rule(vad.PostProcessing)
    found = vad.segments(speech.tolist(), frame_s, post, duration_s)
    return [Segment(*pair) for pair in found]


def transcript_of(
    about: Known, log_probs: NDArray[np.float32], ids: Sequence[int], duration_s: float
) -> Transcript:
    """The transcript of label `ids` and CTC log-probabilities `[T, V + 1]` of `duration_s`."""
    characters = characters_of(log_probs, ids, about.labels, about.frame_s, end_s=duration_s)
    return Transcript(
        decode(ids, about.labels).strip(),
        words_from_characters(characters, about.confidence),
        characters,
        duration_s,
    )
