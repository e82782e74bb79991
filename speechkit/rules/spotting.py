"""Keyword spotting: a pure rule over probabilities that decides when a label is detected."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechkit.component import did_you_mean
from speechkit.config import Config
from speechkit.errors import ConfigError
from speechkit.rules.probability import softmax

SKIPPED_ABOVE = 0.1
"""The probability of labels in `clip_skips` above which a window does not count, unless they are
probable in all windows; chosen on the dev words of recipes/words."""


@dataclass(frozen=True, kw_only=True)
class Spotting(Config):
    """How a clip classifier detects its labels in a stream; stored with the model.

    Its scores are those of the last `window_s` seconds. A label is detected once it has been the
    best for `hold_ms` with a probability of at least `threshold` in each frame. It is detected
    again only after `pause_ms` in which it was not. Labels in `silent`, which stand for everything
    else, are never detected.

    The scores of a clip, as in `classify`, are those of all of it. With labels in `clip_skips` they
    are the mean over its windows, without those in which these labels are probable, so that silence
    around a word does not matter.
    """

    window_s: float = 1.0
    threshold: float = 0.8
    hold_ms: float = 100
    pause_ms: float = 200
    silent: tuple[str, ...] = ("unknown", "background", "silence")
    clip_skips: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window_s <= 0 or self.hold_ms < 0 or self.pause_ms < 0:
            raise ConfigError(
                f"window_s={self.window_s:g}, hold_ms={self.hold_ms:g}, "
                f"pause_ms={self.pause_ms:g}: give a window of more than 0 and times from 0 up"
            )
        if not 0 <= self.threshold <= 1:
            raise ConfigError(f"threshold={self.threshold:g}: give a probability")


def check_skips(rule: Spotting, labels: Sequence[str]) -> None:
    """Raises ConfigError for a label in `clip_skips` that is none of `labels`, or if all are in
    it."""
    if odd := [name for name in rule.clip_skips if name not in labels]:
        raise ConfigError(f"clip_skips: no label {odd[0]!r:.40}. {did_you_mean(odd[0], labels)}")
    if set(rule.clip_skips) == set(labels):
        raise ConfigError("clip_skips names all labels; leave out those that may be detected")


def counted(
    rule: Spotting, labels: Sequence[str], logits: NDArray[Any], frame_s: float
) -> NDArray[np.intp]:
    """The frames of a clip whose windows count, by `clip_skips`.

    `logits` `[T, n]` are those of a stream over the clip, each of the window before it. A clip
    shorter than the window is one window.
    """
    frames = max(1, round(rule.window_s / frame_s))
    first = min(frames, len(logits)) - 1
    skipped = [index for index, name in enumerate(labels) if name in rule.clip_skips]
    probable = softmax(logits[first:])[:, skipped].sum(1)
    return first + np.flatnonzero(probable <= max(SKIPPED_ABOVE, probable.min()))


def clip_logits(
    rule: Spotting, labels: Sequence[str], logits: NDArray[Any], frame_s: float
) -> NDArray[Any]:
    """The mean logits `[n]` over the windows of a clip that count; see `counted`."""
    mean: NDArray[Any] = logits[counted(rule, labels, logits, frame_s)].mean(0)
    return mean


@dataclass(frozen=True)
class State:
    """The rule's state after the frames so far; −1 stands for none.

    `label` has been the best and above the threshold for `held` frames. `said` is the keyword
    detected last, and `silent` counts the frames since it was above the threshold.
    """

    frames: int = 0
    label: int = -1
    held: int = 0
    said: int = -1
    silent: int = 0


def advance(
    rule: Spotting, frame_s: float, state: State, label: int, probability: float
) -> tuple[State, bool]:
    """The state after a frame whose best label is `label` (−1 for a silent one), and whether it is
    detected in this frame."""
    hold, pause = (max(1, round(ms / 1000 / frame_s)) for ms in (rule.hold_ms, rule.pause_ms))
    above = label if probability >= rule.threshold else -1
    held = state.held + 1 if above >= 0 and above == state.label else int(above >= 0)
    silent = 0 if above == state.said else state.silent + 1
    said = -1 if silent >= pause else state.said
    detected = held >= hold and above != said
    if detected:
        said, silent = above, 0
    return State(state.frames + 1, above, held, said, silent), detected
