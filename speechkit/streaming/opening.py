"""Opens the sessions of a plan or model: engine, listeners, and a recogniser's detector."""

import math
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from speechkit.component import Spec
from speechkit.config import check_range
from speechkit.decode import Decoder
from speechkit.errors import ConfigError, StreamError
from speechkit.implementation import asked
from speechkit.plans.about import About
from speechkit.plans.plan import Plan
from speechkit.plans.source import about_of, resolve, with_torch
from speechkit.rules.vad import PostProcessing
from speechkit.streaming.engines.native.engine import NativeEngine
from speechkit.streaming.gate import DETECTOR, Detector, Gate
from speechkit.streaming.nets import SessionNet, block_strides, net_of, suggested_window_s
from speechkit.streaming.row_listeners import row_listeners
from speechkit.streaming.scheduler import Scheduler
from speechkit.streaming.speech import DetectedSpeech
from speechkit.streaming.waiting import Waiting

if TYPE_CHECKING:
    from speechkit.models import Model

PAD_MS = 150
"""Segments of the detector are extended by this much on both sides (docs/transcribing.md)."""
THRESHOLDS = {"onset": 0.2, "offset": 0.1}
"""Of the bundled detector before a recogniser: lower than its own, which miss quiet speech."""
ROOM_BLOCKS = 16
"""How many blocks of a session can wait where each feed is computed at once."""


class Opened:
    """The scheduler of a net's sessions, and what they depend on.

    `latency_s` is the audio needed after the beginning of a frame until its score is returned and
    the `vad` has decided. At least `room` samples of a session can wait.
    """

    def __init__(
        self,
        net: SessionNet,
        capacity: int,
        decoder: Decoder | Spec | str | None = None,
        vad: Detector = None,
        room: int = 0,
    ) -> None:
        self.net, self.sample_rate, about = net, net.sample_rate, net.about
        strides = block_strides(about, net.stride, net.sample_rate)
        block = strides * net.stride
        try:
            waiting = Waiting(capacity, block, max(ROOM_BLOCKS, math.ceil(room / block)))
            engine = net.engine(waiting)
        except MemoryError as error:
            raise StreamError(
                f"no memory for {capacity} sessions; give fewer, or less room"
            ) from error
        lead_s = net.delay * about.frame_s
        # up to a block that the recogniser has computed already may still wait in the detector
        gate = gate_of(about, net.sample_rate, vad, capacity, lead_s, 2 * waiting.room)
        self._speech = gate.speech if gate else None
        held = gate.held if gate else 0
        self.latency_s: float = lead_s + (strides * net.rate + held) * about.frame_s
        library = engine.plan.library if isinstance(engine, NativeEngine) else None
        listener, classes = net.listener(decoder), len(about.labels)
        listeners = row_listeners(listener, capacity, classes, library, gate)
        self.scheduler = Scheduler(engine, listeners, net.sample_rate, gate)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that must be equal to restore a state."""
        return {
            "engine": "native" if isinstance(self.scheduler.engine, NativeEngine) else "torch",
            "model": self.net.digest,
            "sample_rate": self.sample_rate,
            "vad": self._speech and self._speech.digest,
        }

    def check_latency(self, max_latency_s: float) -> None:
        """Raises StreamError if the latency is above `max_latency_s`."""
        check_range("max_latency_s", max_latency_s, 0, math.inf, error=StreamError)
        if self.latency_s > max_latency_s:
            about = self.net.about
            raise StreamError(
                f"this {about.kind} answers {self.latency_s:.2f} s late, more than "
                f"max_latency_s={max_latency_s:g}; train with a smaller lookahead, raise it, or "
                f"give window_s={suggested_window_s(about):g} for an approximate stream"
            )


def opened(
    source: "Plan | Model",
    capacity: int,
    sample_rate: int | None = None,
    decoder: Decoder | Spec | str | None = None,
    vad: Detector = None,
    room: int = 0,
) -> Opened:
    """The sessions of a plan or model for samples at `sample_rate` (its own if None)."""
    return Opened(net_of(source, sample_rate), capacity, decoder, vad, room)


def gate_of(
    about: About, sample_rate: int, vad: Detector, capacity: int, lead_s: float, room: int = 0
) -> Gate | None:
    """The gate for the scores of sessions; None without a detector."""
    speech = speech_of(about, sample_rate, vad, capacity, room)
    if speech is None:
        return None
    return Gate(speech, capacity, len(about.labels) + 1, about.frame_s, lead_s)


def speech_of(
    about: About, sample_rate: int, vad: Detector, capacity: int = 1, room: int = 0
) -> DetectedSpeech | None:
    """The speech of sessions before a recogniser; None without a detector.

    Raises ConfigError for an unusable detector, and if the model is no recogniser.
    """
    if not about.decodes:
        if vad not in (None, DETECTOR):
            raise ConfigError(f"a vad is for recognition; leave it out for a {about.kind}")
        return None
    if vad is None:
        return None
    detector = _bundled(asked()) if vad == DETECTOR else _widened(resolve(vad))
    found = opened(detector, capacity, sample_rate, room=room)
    frame_s = found.net.about.frame_s
    rule = found.net.about.rule(PostProcessing).rule(frame_s)
    late_s = found.latency_s + rule.late * frame_s
    return DetectedSpeech(found.scheduler, late_s, found.net)


@cache
def _bundled(impl: str) -> "Plan | Model":
    """The bundled detector; `resolve` chooses it by `impl`, which is here the key of the cache."""
    return _widened(resolve(DETECTOR).with_(postprocess=THRESHOLDS))


def _widened(detector: "Plan | Model") -> "Plan | Model":
    """The detector with segments that are `PAD_MS` longer on both sides and never split."""
    about = about_of(detector)
    about.require("detect")
    if not isinstance(detector, Plan):
        profile = with_torch("speechkit.models.profile")
        if reason := profile.why_not_streamable(detector):
            raise ConfigError(f"vad: {reason}; give a detector that streams, or None for none")
    post = about.rule(PostProcessing)
    pads_ms = post.pad_onset_ms + PAD_MS, post.pad_offset_ms + PAD_MS
    return detector.with_(
        postprocess=replace(
            post, pad_onset_ms=pads_ms[0], pad_offset_ms=pads_ms[1], max_speech_s=None
        )
    )
