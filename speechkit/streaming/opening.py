"""Opens the sessions of a model: their engine, their listeners, and a recogniser's detector."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

from speechkit.checkpoint import as_model
from speechkit.decode import Decoder
from speechkit.errors import ConfigError, StreamError
from speechkit.models import Model
from speechkit.models.net import Name
from speechkit.models.profile import why_not_streamable
from speechkit.nn import Serial
from speechkit.rules.vad import PostProcessing
from speechkit.streaming.engines.choice import (
    block_strides,
    engine_of,
    session_layer,
    suggested_window_s,
)
from speechkit.streaming.engines.engine import Engine
from speechkit.streaming.engines.native.engine import NativeEngine
from speechkit.streaming.fingerprint import settings_of
from speechkit.streaming.gate import DETECTOR, Detector, Gate
from speechkit.streaming.row_listeners import row_listeners
from speechkit.streaming.scheduler import Scheduler
from speechkit.streaming.speech import DetectedSpeech
from speechkit.streaming.waiting import Waiting
from speechkit.tasks import listener_of, require, task_of

PAD_MS = 100
"""Segments of the detector are extended by this much on both sides (docs/transcribing.md)."""
ROOM_BLOCKS = 16
"""The blocks that can wait in a session that computes whatever it is fed at once."""
MakeEngine = Callable[[Model, Serial, Waiting, int], Engine]


class Opened:
    """The scheduler of a model's sessions, and what they depend on.

    `latency_s` is the audio needed after the beginning of a frame until its score is returned and
    the `vad` has decided. At least `room` samples of a session can wait.
    """

    def __init__(
        self,
        model: Model,
        capacity: int,
        sample_rate: int | None = None,
        decoder: Decoder | Name | None = None,
        vad: Detector = None,
        room: int = 0,
        make_engine: MakeEngine = engine_of,
    ) -> None:
        self.model = model
        self.sample_rate = rate = model.sample_rate if sample_rate is None else sample_rate
        layer = session_layer(model, rate)
        strides = block_strides(model, layer, rate)
        block = strides * layer.stride
        waiting = Waiting(capacity, block, max(ROOM_BLOCKS, math.ceil(room / block)))
        engine = make_engine(model, layer, waiting, rate)
        lead_s = layer.delay * model.frame_s
        # of the detector less than a block waits longer than the recogniser's samples
        gate = gate_of(model, rate, vad, capacity, lead_s, 2 * waiting.room)
        self.detector = gate.speech.detector if gate else None
        held = gate.held if gate else 0
        self.latency_s: float = lead_s + (strides * layer.rate + held) * model.frame_s
        listener = listener_of(model, decoder)
        library = engine.net.plan.library if isinstance(engine, NativeEngine) else None
        listeners = row_listeners(listener, capacity, len(model.labels), library, gate)
        self.scheduler = Scheduler(engine, listeners, rate, gate)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that must be equal to restore a state."""
        return settings_of(self.model, self.sample_rate, self.detector)

    def check_latency(self, max_latency_s: float) -> None:
        """Raises StreamError if the latency is above `max_latency_s`."""
        if self.latency_s > max_latency_s:
            raise StreamError(
                f"this {self.model.config.kind} answers {self.latency_s:.2f} s late, more than "
                f"max_latency_s={max_latency_s:g}; train with a smaller lookahead, raise it, or "
                f"give window_s={suggested_window_s(self.model):g} for an approximate stream"
            )


def gate_of(
    model: Model, sample_rate: int, vad: Detector, capacity: int, lead_s: float, room: int = 0
) -> "Gate[DetectedSpeech] | None":
    """The gate for the scores of sessions; None without a detector."""
    speech = speech_of(model, sample_rate, vad, capacity, room)
    if speech is None:
        return None
    return Gate(speech, capacity, len(model.labels) + 1, model.frame_s, lead_s)


def speech_of(
    model: Model, sample_rate: int, vad: Detector, capacity: int = 1, room: int = 0
) -> DetectedSpeech | None:
    """The speech of sessions before a recogniser; None without a detector.

    Raises ConfigError for an unusable detector, and if the model is no recogniser.
    """
    if not task_of(model).decodes:
        if vad not in (None, DETECTOR):
            raise ConfigError(f"a vad is for recognition; leave it out for a {model.config.kind}")
        return None
    if vad is None:
        return None
    detector = _bundled() if vad == DETECTOR else _widened(as_model(vad))
    opened = Opened(detector, capacity, sample_rate, room=room)
    rule = detector.config.rule(PostProcessing).rule(detector.frame_s)
    late_s = opened.latency_s + rule.late * detector.frame_s
    return DetectedSpeech(opened.scheduler, late_s, detector)


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
