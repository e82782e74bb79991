"""Sessions: they take samples as they arrive and return events, the same for all chunk sizes."""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from speechkit.checkpoint import ModelSource, as_model
from speechkit.data.samples import Samples
from speechkit.decode import Decoder
from speechkit.errors import StreamError
from speechkit.events import Event
from speechkit.frontend.resample import Resample
from speechkit.models import Model
from speechkit.models.net import Name
from speechkit.models.profile import why_not_streamable
from speechkit.nn import Serial, StreamLayer
from speechkit.streaming.base import Session
from speechkit.streaming.batch_listeners import batch_listeners
from speechkit.streaming.engine import NativeEngine, Scored, TorchEngine
from speechkit.streaming.engines.native.layer import NativeLayer, native_layer
from speechkit.streaming.fingerprint import settings_of
from speechkit.streaming.gate import DETECTOR, Detector, gate_of
from speechkit.streaming.state import AGAIN, Resumable, State, checked, pack, unpack
from speechkit.streaming.windowed import WindowedStream, suggested_window_s
from speechkit.tasks import Listener, listener_of, task_of

T = TypeVar("T")

LONGEST_PERIOD = 2000
"""The most input samples that make a whole number of samples at the model's rate: 441 for 44.1 to
16 kHz."""
PLACE = {
    "filled": int,
    "consumed": int,
    "finished": bool,
    "started": list,
    "listening": list,
    "kept": object,
    "gate": object,
}
"""The values in a state besides the engine's arrays."""


def stream(
    model: ModelSource,
    sample_rate: int | None = None,
    max_latency_s: float = 5.0,
    *,
    decoder: Decoder | Name | None = None,
    vad: Detector = DETECTOR,
    window_s: float | None = None,
    right_s: float | None = None,
    hop_s: float | None = None,
    pre_roll_ms: float | None = None,
    keep_segments: bool = False,
) -> "Stream | WindowedStream":
    """A streaming session of `model` for samples at `sample_rate` hertz (the model's if None).

    The scores are exactly those of the whole recording. Raises StreamError if the model reads whole
    utterances or its latency is above `max_latency_s`. With `window_s` the session is approximate,
    for models that cannot stream: every `hop_s` it runs the last `window_s` seconds again and keeps
    all frames except the last `right_s` seconds (both a quarter of the window by default).
    `decoder` is a component's name or a decoder for the model's labels, which sessions may share;
    None is greedy. Text is returned only where `vad` detects speech; None disables it. Raises
    ConfigError for a decoder or a vad if the model is no recogniser.

    With `pre_roll_ms` a `SpeechStart` has the samples from that long before the start up to its
    decision. With `keep_segments` a `SpeechEnd` has the samples of its segment, pre-roll included,
    at most the last `limits.MAX_KEPT_S` seconds. Raises ConfigError for either if the model does
    not detect speech.
    """
    model, kept = as_model(model), (pre_roll_ms, keep_segments)
    if window_s is not None:
        return WindowedStream(model, sample_rate, window_s, right_s, hop_s, decoder, vad, *kept)
    return Stream(model, sample_rate, max_latency_s, decoder, vad, *kept)


class StreamBatch(Resumable):
    """`size` independent sessions that are computed together, a block of each at a time.

    `latency_s` is the audio needed after the beginning of a frame until its score is returned and
    the vad has decided. `scores` are those of the latest frame, `[size, n]`, for a meter. A batch
    belongs to one thread; the model, the `decoder` and the `vad` may be shared.
    """

    def __init__(
        self,
        model: ModelSource,
        size: int,
        sample_rate: int | None = None,
        max_latency_s: float = 5.0,
        decoder: Decoder | Name | None = None,
        vad: Detector = DETECTOR,
    ) -> None:
        if size < 1:
            raise StreamError(f"a batch of {size} sessions; give at least 1")
        model = as_model(model)
        self._made_with = model, size, sample_rate, max_latency_s, decoder, vad
        self.model = model
        self.size = size
        self.sample_rate = model.sample_rate if sample_rate is None else sample_rate
        self._layer: StreamLayer = session_layer(model, self.sample_rate)
        strides = block_strides(model, self._layer, self.sample_rate)
        self.block_samples = strides * self._layer.stride
        lead_s = self._layer.delay * model.frame_s
        self._gate = gate_of(model, self.sample_rate, vad, size, lead_s)
        held = self._gate.held if self._gate else 0
        self.latency_s: float = lead_s + (strides * self._layer.rate + held) * model.frame_s
        if self.latency_s > max_latency_s:
            raise StreamError(
                f"this {model.config.kind} answers {self.latency_s:.2f} s late, more than "
                f"max_latency_s={max_latency_s:g}; train with a smaller lookahead, raise it, or "
                f"give window_s={suggested_window_s(model):g} for an approximate stream"
            )
        key = self.sample_rate, self.block_samples
        native = native_layer(model, self._layer, self.block_samples, key)
        self._engine: TorchEngine | NativeEngine
        is_native = isinstance(native, NativeLayer)
        if not isinstance(native, NativeLayer):
            self.backend = f"torch: {native}"
            self._engine = TorchEngine(model, self._layer, size, self.block_samples)
        else:
            names = ", ".join(dict.fromkeys(native.in_torch))
            self.backend = f"native, in torch: {names}" if names else "native"
            self._engine = NativeEngine(native, size)
        self._listeners = batch_listeners(
            listener_of(model, decoder), size, is_native, len(model.labels)
        )
        self._started = [0] * size
        self._consumed = 0
        self._finished = False
        # scores of the latest feed, `[size, blocks, T, n]`; the next feed overwrites them
        self.latest: Tensor | None = None

    def feed(self, samples: Samples | Sequence[Samples]) -> list[list[Event]]:
        """The events of each session after its next samples, `[size, N]`, N the same for all."""
        if self._finished:
            raise StreamError("this stream is finished; make a new one")
        scored = self._engine.feed(samples)
        if self._gate:
            scored = self._gate.feed(samples, scored)
        return self._events(scored, self.block_samples)

    def finish(self) -> list[list[Event]]:
        """The remaining events; afterwards the batch takes no more samples."""
        if self._finished:
            raise StreamError("this stream is finished; make a new one")
        self._consumed += self._engine.filled
        scored = self._engine.flush()
        if self._gate:
            scored = self._gate.finish(scored)
        events = self._events(scored, 0)
        self._finished = True
        for row, found in enumerate(events):
            found += self._listeners.finish(row, self._time_s(row))
        return events

    def reset(self, row: int) -> None:
        """Starts a new session in a row, between blocks (after a multiple of `block_samples`)."""
        if not 0 <= row < self.size:
            raise StreamError(f"no row {row}; give one from 0 to {self.size - 1}")
        batches = [self, self._gate.speech.batch] if self._gate else [self]
        if filled := max(batch._engine.filled for batch in batches):
            raise StreamError(
                f"{filled} samples of a block are waiting; reset a row after a multiple of "
                f"{math.lcm(*(batch.block_samples for batch in batches))} samples"
            )
        if self._gate:
            self._gate.reset(row)
        self._engine.reset(row)
        self._started[row] = self._consumed
        self._listeners.reset(row)

    @property
    def listener(self) -> Listener:
        """The listener that makes events from the scores of each session."""
        return self._listeners.listener

    @property
    def fed(self) -> int:
        """The number of samples that each session was fed."""
        return self._consumed + (0 if self._finished else self._engine.filled)

    @property
    def scores(self) -> NDArray[np.float32] | None:
        """The scores of the latest frame, `[size, n]`; None before the first."""
        return None if self.latest is None else self.latest.numpy()[:, -1, -1].copy()

    @property
    def state(self) -> State:
        """Everything the next event depends on, as named arrays for `safetensors.numpy`.

        Assign it to a batch of the same model, size, sample rate and vad to go on from there.
        """
        return self.packed({}, None)

    @state.setter
    def state(self, stored: State) -> None:
        self.go_on(stored, {}, lambda _: None)

    def packed(self, settings: dict[str, Any], kept: Any) -> State:
        """The state, with the settings of the session and its kept audio."""
        return pack(
            self._engine.arrays(),
            {
                "filled": self._engine.filled,
                "consumed": self._consumed,
                "finished": self._finished,
                "started": self._started,
                "listening": self._listeners.states,
                "kept": kept,
                "gate": self._gate and self._gate.state,
            },
            {**self._settings, **settings},
        )

    def go_on(self, stored: State, settings: dict[str, Any], kept_of: Callable[[Any], T]) -> T:
        """Restores a state from `packed`; returns its kept audio, which `kept_of` checks."""
        own = {**self._settings, **settings}
        arrays, plain = unpack(stored, self._engine.arrays(), own)
        values = checked(plain, PLACE)
        filled, consumed = values["filled"], values["consumed"]
        started, listening = values["started"], values["listening"]
        rows_fit = len(started) == len(listening) == self.size
        if not (rows_fit and 0 <= filled < self.block_samples) or not all(
            isinstance(at, int) and 0 <= at <= consumed for at in started
        ):
            raise StreamError(f"the state is damaged: it counts wrongly; {AGAIN}")
        # parts that may raise are restored first, and undone if a later one raises
        kept, was = kept_of(values["kept"]), self._listeners.states
        self._listeners.states = listening
        if self._gate:
            try:
                self._gate.state = values["gate"]
            except StreamError:
                self._listeners.states = was
                raise
        self._engine.restore(arrays, filled)
        self._consumed, self._finished, self._started = consumed, values["finished"], started
        return kept

    @property
    def _settings(self) -> dict[str, Any]:
        detector = self._gate.detector if self._gate else None
        return settings_of(self.model, self.sample_rate, detector)

    def _events(self, scored: Scored | None, samples_each: int) -> list[list[Event]]:
        """The events of blocks of scores, each from `samples_each` samples."""
        if scored is None:
            return [[] for _ in range(self.size)]
        before, blocks = self._consumed, scored.scores.shape[1]
        self._consumed += blocks * samples_each
        self.latest = scored.scores

        def decided_s(row: int, block: int) -> float:
            consumed = before + (block + 1) * samples_each
            return (consumed - self._started[row]) / self.sample_rate

        return self._listeners.step(scored, decided_s)

    def _time_s(self, row: int) -> float:
        """The seconds of audio that a row's session has consumed."""
        return (self._consumed - self._started[row]) / self.sample_rate


class Stream(Session):
    """One session; `feed` any number of samples at a time, then `finish`.

    `latency_s` is the audio needed after the beginning of a frame until its score is returned and
    the vad has decided. A stream belongs to one thread; the model, the `decoder` and the `vad` may
    be shared.
    """

    approximate = False

    def __init__(
        self,
        model: Model,
        sample_rate: int | None = None,
        max_latency_s: float = 5.0,
        decoder: Decoder | Name | None = None,
        vad: Detector = DETECTOR,
        pre_roll_ms: float | None = None,
        keep_segments: bool = False,
    ) -> None:
        kept = pre_roll_ms, keep_segments
        self._made_with = model, sample_rate, max_latency_s, decoder, vad, *kept
        self._batch = StreamBatch(model, 1, sample_rate, max_latency_s, decoder, vad)
        self.model, self.sample_rate = model, self._batch.sample_rate
        self.latency_s = self._batch.latency_s
        self._keep_sound(self._batch.listener, *kept)

    @property
    def backend(self) -> str:
        """ "native", or "torch: " and the reason."""
        return self._batch.backend

    @property
    def scores(self) -> NDArray[np.float32] | None:
        """The scores of the latest frame `[n]`, for a meter; None before the first."""
        latest = self._batch.latest
        return None if latest is None else latest.numpy()[0, -1, -1].copy()

    @property
    def state(self) -> State:
        """Everything the next event depends on, as named arrays for `safetensors.numpy`.

        Assign it to a stream of the same model, sample rate and settings to go on from there.
        """
        return self._batch.packed(self._settings, self._kept_state())

    @state.setter
    def state(self, stored: State) -> None:
        self._go_on(self._batch.go_on(stored, self._settings, self._kept_of))

    @property
    def _fed(self) -> int:
        return self._batch.fed

    def _feed(self, samples: Samples) -> list[Event]:
        return self._batch.feed(samples[None] if isinstance(samples, np.ndarray) else [samples])[0]

    def _finish(self) -> list[Event]:
        return self._batch.finish()[0]


def block_strides(model: Model, layer: StreamLayer, sample_rate: int) -> int:
    """The number of strides per block for a net over audio at `sample_rate`."""
    return max(1, round(task_of(model).block_s * sample_rate / layer.stride))


def session_layer(model: Model, sample_rate: int) -> Serial:
    """The net over audio at `sample_rate`; raises StreamError if a part of it cannot stream."""
    if not isinstance(sample_rate, int):
        raise StreamError(f"sample_rate={sample_rate!r:.40} is no whole number; give one in hertz")
    if reason := why_not_streamable(model):
        window_s = suggested_window_s(model)
        raise StreamError(f"{reason}; or give window_s={window_s:g} for an approximate stream")
    net = model.stream_layer(task_of(model).window_s)
    if sample_rate == model.sample_rate:
        return net
    period = sample_rate // math.gcd(sample_rate, model.sample_rate)
    if sample_rate < 1 or period > LONGEST_PERIOD:
        raise StreamError(
            f"sample_rate={sample_rate} does not fit {model.sample_rate} Hz; resample the sound to "
            f"{model.sample_rate} Hz first"
        )
    return Serial(resample=Resample(sample_rate, model.sample_rate), net=net)
