"""A speech detector before a recogniser: text is returned only where it finds speech."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechkit.checkpoint import ModelSource, as_model
from speechkit.data.samples import Samples
from speechkit.errors import ConfigError, StreamError
from speechkit.events import Event, SpeechEnd, SpeechStart
from speechkit.limits import MAX_NUMBER
from speechkit.models import Model
from speechkit.models.profile import why_not_streamable
from speechkit.rules.vad import PostProcessing
from speechkit.streaming.engine import Scored
from speechkit.streaming.state import AGAIN, check_array, checked
from speechkit.tasks import require, task_of

Detector = ModelSource | None
"""A model that detects speech frame by frame, its folder or its name; None for no detector."""
DETECTOR = "vad"
"""The bundled model that is the default detector for recognition."""
PAD_MS = 100
"""Segments of the detector are extended by this much on both sides (docs/transcribing.md)."""
NEVER = -1000.0
"""The log-probability of a label outside speech: finite, with an exponential of 0."""


def speech_of(model: Model, sample_rate: int, vad: Detector, size: int = 1) -> "Speech | None":
    """The speech of `size` sessions before a recogniser; None without a detector.

    Raises ConfigError for an unusable detector, and if the model is no recogniser.
    """
    if not task_of(model).decodes:
        if vad not in (None, DETECTOR):
            raise ConfigError(f"a vad is for recognition; leave it out for a {model.config.kind}")
        return None
    if vad is None:
        return None
    if vad == DETECTOR:
        return Speech(_bundled(), sample_rate, size)
    return Speech(_widened(as_model(vad)), sample_rate, size)


def gate_of(
    model: Model, sample_rate: int, vad: Detector, size: int, lead_s: float
) -> "Gate | None":
    """The gate for the scores of `size` sessions; None without a detector."""
    speech = speech_of(model, sample_rate, vad, size)
    if speech is None:
        return None
    return Gate(speech, size, len(model.labels) + 1, model.frame_s, lead_s)


@cache
def _bundled() -> Model:
    return _widened(as_model(DETECTOR))


def _widened(detector: Model) -> Model:
    """The detector with segments that are `PAD_MS` longer on both sides and never split."""
    require(detector, "detect")
    if reason := why_not_streamable(detector):
        raise ConfigError(f"vad: {reason}; give a detector that streams, or None for none")
    post = detector.config.rule(PostProcessing)
    pads_ms = post.pad_onset_ms + PAD_MS, post.pad_offset_ms + PAD_MS
    return detector.with_(
        postprocess=replace(
            post, pad_onset_ms=pads_ms[0], pad_offset_ms=pads_ms[1], max_speech_s=None
        )
    )


class Speech:
    """The segments of speech in `size` sessions; they are known `late_s` seconds afterwards."""

    def __init__(self, detector: Model, sample_rate: int, size: int) -> None:
        # imported here, since session.py imports this module
        from speechkit.streaming.session import StreamBatch

        self.batch = StreamBatch(detector, size, sample_rate, math.inf)
        rule = detector.config.rule(PostProcessing).rule(detector.frame_s)
        self.late_s = self.batch.latency_s + rule.late * detector.frame_s
        # for each session: a start, its end, the next start, …
        self._edges: list[list[float]] = [[] for _ in range(size)]

    def feed(self, samples: Samples | Sequence[Samples]) -> None:
        """Takes the next samples `[size, N]`."""
        self._remember(self.batch.feed(samples))

    def listening(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yields the blocks `[N]` of a recording, after feeding each to the detector."""
        for block in blocks:
            self.feed([block])
            yield block
        self.finish()

    def finish(self) -> None:
        """Ends the audio; all segments are known afterwards."""
        self._remember(self.batch.finish())

    def reset(self, row: int) -> None:
        """Starts a new session in a row."""
        self.batch.reset(row)
        self._edges[row] = []

    def at(self, row: int, times_s: Tensor) -> Tensor:
        """True for those of a session's times `[T]` that are in speech.

        Times must be in ascending order, within a call and between calls.
        """
        edges = self._edges[row]
        before = torch.searchsorted(torch.tensor(edges, dtype=times_s.dtype), times_s, right=True)
        # segments before these times are no longer needed
        del edges[: before[-1:].sum() // 2 * 2]
        return before % 2 == 1

    @property
    def state(self) -> dict[str, Any]:
        """The state as plain data and arrays."""
        return {"batch": self.batch.state, "edges": self._edges}

    @state.setter
    def state(self, stored: dict[str, Any]) -> None:
        values = checked(stored, {"batch": dict, "edges": list})
        edges = values["edges"]
        fit = len(edges) == self.batch.size and all(
            isinstance(row, list) and _are(float, row) for row in edges
        )
        if not fit:
            raise StreamError(f"the state is damaged: its edges are no times; {AGAIN}")
        self.batch.state, self._edges = values["batch"], edges

    def _remember(self, events: Iterable[Iterable[Event]]) -> None:
        for edges, found in zip(self._edges, events, strict=True):
            edges += [e.at_s for e in found if isinstance(e, SpeechStart | SpeechEnd)]


class Gate:
    """Sets the CTC log-probabilities `[T, V + 1]` of `size` sessions to the blank outside speech.

    The last `held` frames are delayed until the detector has decided on them. The scores of a frame
    arrive at least `lead_s` seconds after its middle.
    """

    def __init__(
        self, speech: Speech, size: int, classes: int, frame_s: float, lead_s: float
    ) -> None:
        self.speech, self.detector, self._frame_s = speech, speech.batch.model, frame_s
        self.held = max(0, math.ceil(round((speech.late_s - lead_s) / frame_s, 6)))
        self._scores = torch.zeros(size, self.held, classes)
        self._valid = torch.zeros(size, self.held, dtype=torch.bool)
        self._passed = [0] * size

    def feed(self, samples: Samples | Sequence[Samples], scored: Scored | None) -> Scored | None:
        """As many frames as in `scored`, the scores after the latest samples `[size, N]`."""
        self.speech.feed(samples)
        if scored is None:
            return None
        scores, valid = self._with_held(scored)
        count = scores.shape[1] - self.held
        self._scores, self._valid = scores[:, count:].clone(), valid[:, count:].clone()
        passed = self._blanked(scores[:, :count], valid[:, :count])
        return Scored(passed.view_as(scored.scores), valid[:, :count].view_as(scored.valid))

    def finish(self, scored: Scored | None) -> Scored:
        """All remaining frames in one block: those held and the last ones, `scored`."""
        self.speech.finish()
        scores, valid = self._with_held(scored) if scored else (self._scores, self._valid)
        return Scored(self._blanked(scores, valid)[:, None], valid[:, None])

    def reset(self, row: int) -> None:
        """Starts a new session in a row."""
        self.speech.reset(row)
        self._valid[row] = False
        self._passed[row] = 0

    @property
    def state(self) -> dict[str, Any]:
        """The state as plain data and arrays."""
        held = {"scores": self._scores.numpy(), "valid": self._valid.numpy()}
        return {"speech": self.speech.state, "passed": self._passed, **held}

    @state.setter
    def state(self, stored: dict[str, Any]) -> None:
        kinds = {"speech": dict, "passed": list, "scores": np.ndarray, "valid": np.ndarray}
        values = checked(stored, kinds)
        passed = values["passed"]
        if len(passed) != len(self._passed) or not all(
            type(n) is int and 0 <= n <= MAX_NUMBER for n in passed
        ):
            raise StreamError(f"the state is damaged: it counts wrongly; {AGAIN}")
        for name, like in (("scores", self._scores), ("valid", self._valid)):
            check_array(name, values[name], like.numpy())
        self.speech.state, self._passed = values["speech"], passed
        self._scores, self._valid = (torch.from_numpy(values[n]) for n in ("scores", "valid"))

    def _with_held(self, scored: Scored) -> tuple[Tensor, Tensor]:
        """The held frames followed by the new ones, `[size, T, V + 1]`, and their validity."""
        scores, valid = scored.scores.flatten(1, 2).float(), scored.valid.flatten(1, 2)
        return torch.cat([self._scores, scores], 1), torch.cat([self._valid, valid], 1)

    def _blanked(self, scores: Tensor, valid: Tensor) -> Tensor:
        """The scores of the next frames, `[size, T, V + 1]`, valid or not."""
        rows = []
        for row, (own, counts) in enumerate(zip(scores, valid, strict=True)):
            frames = self._passed[row] + counts.cumsum(0) - 1
            self._passed[row] += int(counts.sum())
            rows.append(blanked(own, self.speech.at(row, middles_s(frames, self._frame_s))))
        return torch.stack(rows)


def _are(kind: type[int | float], values: list[Any]) -> bool:
    """True if all values are numbers of a kind from 0 to `MAX_NUMBER`."""
    return all(type(value) is kind and 0 <= value <= MAX_NUMBER for value in values)


def middles_s(frames: Tensor, frame_s: float) -> Tensor:
    """The time of each frame's middle in seconds; edges of speech are never at the middle."""
    return (frames.double() + 0.5) * frame_s


def blanked(log_probs: Tensor, speech: Tensor) -> Tensor:
    """Log-probabilities `[T, V + 1]` with the blank certain where there is no `speech [T]`."""
    never = log_probs.new_full(log_probs.shape[1:], NEVER)
    never[-1] = 0
    return torch.where(speech[:, None], log_probs, never)
