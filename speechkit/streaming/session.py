"""Sessions: samples in as they come, events out, the same for every way of cutting the sound."""

import math
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor

from speechkit.data.audio import mono_samples
from speechkit.errors import StreamError
from speechkit.evaluation import evaluating
from speechkit.events import Event
from speechkit.frontend.resample import Resample
from speechkit.models import Model
from speechkit.models.profile import why_not_streamable
from speechkit.nn import Chunk, Serial, State, StreamLayer
from speechkit.streaming.listeners import clip_window_s, listener_of
from speechkit.streaming.native import native_layer
from speechkit.streaming.state import pack, rebuilt, tensors_of, unpack
from speechkit.streaming.windowed import WindowedStream, suggested_window_s

Samples = np.ndarray | Tensor

BLOCK_S = {"frame": 0.02, "clip": 0.08, "ctc": 0.08}
"""How much sound a session computes at a time, for each task: short where an answer is urgent."""
LONGEST_PERIOD = 2000
"""Samples after which an input rate must meet the model's again: 44.1 kHz meets 16 kHz in 441."""


def stream(
    model: Model,
    sample_rate: int | None = None,
    max_latency_s: float = 5.0,
    *,
    window_s: float | None = None,
    right_s: float | None = None,
    hop_s: float | None = None,
) -> "Stream | WindowedStream":
    """A session that listens with `model` to samples at `sample_rate` hertz (the model's if None).

    The scores are exactly those of the whole recording. Raises StreamError where the model reads
    whole utterances or looks further ahead than `max_latency_s`. With `window_s` the session is
    approximate instead, for models that cannot stream: every `hop_s` it runs the last `window_s`
    seconds anew and keeps all but `right_s` seconds at their end (a quarter of the window each).
    """
    if window_s is not None:
        return WindowedStream(model, sample_rate, window_s, right_s, hop_s)
    return Stream(model, sample_rate, max_latency_s)


class StreamBatch:
    """`size` sessions in step: they share the model and each step of it, and nothing else.

    `latency_s` is how much sound must follow the beginning of a frame before its score is out.
    `scores` are those of the latest frame, `[size, n]`, for a meter. A batch belongs to one thread;
    the model may be shared.
    """

    def __init__(
        self,
        model: Model,
        size: int,
        sample_rate: int | None = None,
        max_latency_s: float = 5.0,
    ) -> None:
        if size < 1:
            raise StreamError(f"a batch of {size} sessions; give at least 1")
        self.model = model
        self.size = size
        self.sample_rate = model.sample_rate if sample_rate is None else sample_rate
        self._listener = listener_of(model)
        self._layer: StreamLayer = _layer(model, self.sample_rate)
        strides = block_strides(model, self._layer, self.sample_rate)
        self.block_samples = strides * self._layer.stride
        self.latency_s = (self._layer.delay + strides * self._layer.rate) * model.frame_s
        if self.latency_s > max_latency_s:
            raise StreamError(
                f"this {model.config.kind} answers {self.latency_s:.2f} s late, more than "
                f"max_latency_s={max_latency_s:g}; train with a smaller lookahead, raise it, or "
                f"give window_s={suggested_window_s(model):g} for an approximate stream"
            )
        key = self.sample_rate, self.block_samples
        native = native_layer(model, self._layer, self.block_samples, key)
        self.backend = "torch: " + native if isinstance(native, str) else "native"
        if not isinstance(native, str):
            self._layer = native
        weight = next(model.parameters())
        # filled in place, so that a session needs the same memory however long it runs
        self._pending = torch.zeros(size, 1, self.block_samples, dtype=weight.dtype)
        self._filled = 0
        self._device = weight.device
        self._layers = self._initial()
        self._started = [0] * size
        self._listening = [self._listener.init() for _ in range(size)]
        self._consumed = 0
        self._finished = False
        self.scores: Tensor | None = None

    def feed(self, samples: Samples | Sequence[Samples]) -> list[list[Event]]:
        """The events of each session after its next samples, `[size, N]`, N the same for all."""
        if self._finished:
            raise StreamError("this stream is finished; make a new one")
        rows = [mono_samples(row) for row in samples]
        if len(rows) != self.size or len({len(row) for row in rows}) > 1:
            raise StreamError(
                f"{len(rows)} rows of {sorted({len(row) for row in rows})} samples; "
                f"give {self.size} rows of one length"
            )
        fed = torch.from_numpy(np.stack(rows)).to(self._pending.dtype)
        events: list[list[Event]] = [[] for _ in rows]
        at = 0
        while at < fed.shape[1]:
            take = min(self.block_samples - self._filled, fed.shape[1] - at)
            self._pending[:, 0, self._filled : self._filled + take] = fed[:, at : at + take]
            self._filled += take
            at += take
            if self._filled == self.block_samples:
                self._consumed += self._filled
                self._run(self.block_samples, events)
                self._filled = 0
        return events

    def finish(self) -> list[list[Event]]:
        """The events that were still to come; the batch then takes no more samples."""
        if self._finished:
            raise StreamError("this stream is finished; make a new one")
        events: list[list[Event]] = [[] for _ in range(self.size)]
        self._consumed += self._filled
        flush = self._layer.delay * self._layer.stride // self._layer.rate
        self._pending[:, :, self._filled :] = 0
        for _ in range(-(-(self._filled + flush) // self.block_samples)):
            self._run(self._filled, events)
            self._filled = 0
            self._pending.zero_()
        self._finished = True
        for row, found in enumerate(events):
            found += self._listener.finish(self._listening[row], self._heard_s(row))
        return events

    @torch.inference_mode()
    def reset(self, row: int) -> None:
        """Starts a new session in a row, between blocks (after a multiple of `block_samples`)."""
        if self._filled:
            raise StreamError(
                f"{self._filled} samples of a block are waiting; reset a row after a multiple of "
                f"{self.block_samples} samples"
            )
        chosen = torch.arange(self.size, device=self._device) == row
        fresh = tensors_of(self._initial())
        mixed = [
            torch.where(chosen.view(-1, *[1] * (old.ndim - 1)), new, old)
            for old, new in zip(tensors_of(self._layers), fresh, strict=True)
        ]
        self._layers = rebuilt(self._layers, iter(mixed))
        self._started[row] = self._consumed
        self._listening[row] = self._listener.init()

    @property
    def state(self) -> dict[str, Tensor]:
        """Everything the next event depends on, as named tensors for safetensors.

        Assign it to a batch of the same model, size and sample rate to go on from there.
        """
        return pack(
            self._named_tensors(),
            {
                "filled": self._filled,
                "consumed": self._consumed,
                "finished": self._finished,
                "started": self._started,
                "listening": [asdict(state) for state in self._listening],
            },
        )

    @state.setter
    def state(self, stored: dict[str, Tensor]) -> None:
        tensors, plain = unpack(stored, self._named_tensors())
        self._pending = tensors.pop("pending")
        self._layers = rebuilt(self._layers, iter(tensors.values()))
        kind = type(self._listener.init())
        self._listening = [kind(**state) for state in plain["listening"]]
        self._filled, self._consumed = plain["filled"], plain["consumed"]
        self._finished, self._started = plain["finished"], plain["started"]

    def _named_tensors(self) -> dict[str, Tensor]:
        layers = {f"layers.{i}": x for i, x in enumerate(tensors_of(self._layers))}
        return {**layers, "pending": self._pending}

    def _initial(self) -> State:
        return self._layer.init_state(self.size, 1, self._pending.dtype, self._device)

    @torch.inference_mode()
    def _run(self, real: int, events: list[list[Event]]) -> None:
        """One step over the pending block, whose first `real` samples are valid."""
        x = self._pending.to(self._device)
        valid = torch.arange(self.block_samples, device=self._device) < real
        with evaluating(self.model):
            out, self._layers = self._layer.step(
                Chunk(x, valid.expand(self.size, -1)), self._layers
            )
        scores, kept = out.x.transpose(1, 2).cpu(), out.valid.cpu()
        if scores.shape[1]:
            self.scores = scores[:, -1]
        for row, found in enumerate(events):
            self._listening[row], new = self._listener.step(
                self._listening[row], scores[row][kept[row]], self._heard_s(row)
            )
            found += new

    def _heard_s(self, row: int) -> float:
        """How much sound a row's session has consumed."""
        return (self._consumed - self._started[row]) / self.sample_rate


class Stream:
    """One session; `feed` any number of samples at a time, then `finish`.

    `latency_s` is how much sound must follow the beginning of a frame before its score is out.
    A stream belongs to one thread; the model may be shared.
    """

    approximate = False

    def __init__(
        self, model: Model, sample_rate: int | None = None, max_latency_s: float = 5.0
    ) -> None:
        self._batch = StreamBatch(model, 1, sample_rate, max_latency_s)
        self.model, self.sample_rate = model, self._batch.sample_rate
        self.latency_s = self._batch.latency_s

    @property
    def scores(self) -> Tensor | None:
        """The scores of the latest frame `[n]`, for a meter; None before the first."""
        return None if self._batch.scores is None else self._batch.scores[0]

    def feed(self, samples: Samples) -> list[Event]:
        """The events after the next samples `[N]`: float32 in [-1, 1] or int16."""
        return self._batch.feed([samples])[0]

    def finish(self) -> list[Event]:
        """The events that were still to come; the stream then takes no more samples."""
        return self._batch.finish()[0]

    @property
    def state(self) -> dict[str, Tensor]:
        """Everything the next event depends on, as named tensors for safetensors.

        Assign it to a stream of the same model and sample rate to go on from there.
        """
        return self._batch.state

    @state.setter
    def state(self, stored: dict[str, Tensor]) -> None:
        self._batch.state = stored


def block_strides(model: Model, layer: StreamLayer, sample_rate: int) -> int:
    """How many strides of a net over audio at `sample_rate` are computed at a time."""
    return max(1, round(BLOCK_S[model.config.task] * sample_rate / layer.stride))


def _layer(model: Model, sample_rate: int) -> Serial:
    """The net over audio at `sample_rate`, once it is sure that every part of it streams."""
    if reason := why_not_streamable(model):
        window_s = suggested_window_s(model)
        raise StreamError(f"{reason}; or give window_s={window_s:g} for an approximate stream")
    net = model.stream_layer(clip_window_s(model))
    if sample_rate == model.sample_rate:
        return net
    period = sample_rate // math.gcd(sample_rate, model.sample_rate)
    if sample_rate < 1 or period > LONGEST_PERIOD:
        raise StreamError(
            f"sample_rate={sample_rate} does not fit {model.sample_rate} Hz; resample the sound to "
            f"{model.sample_rate} Hz first"
        )
    return Serial(resample=Resample(sample_rate, model.sample_rate), net=net)
