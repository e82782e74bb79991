"""Sessions: they take samples as they arrive and return events, the same for all chunk sizes."""

import math
from collections.abc import Sequence
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from speechkit.component import Spec
from speechkit.config import check_range
from speechkit.data.samples import Samples, as_samples
from speechkit.decode import Decoder
from speechkit.errors import StreamError
from speechkit.events import Event
from speechkit.limits import MAX_SESSIONS
from speechkit.plans.plan import Plan
from speechkit.plans.source import ModelSource, in_torch, resolve, with_torch
from speechkit.streaming.base import Session
from speechkit.streaming.gate import DETECTOR, Detector
from speechkit.streaming.opening import opened
from speechkit.streaming.row_listeners import Found
from speechkit.streaming.state import Resumable, State, checked, pack, unpack
from speechkit.streaming.waiting import rows_of

if TYPE_CHECKING:
    from speechkit.models import Model
    from speechkit.streaming.windowed import WindowedStream


def stream(
    model: ModelSource,
    sample_rate: int | None = None,
    max_latency_s: float = 5.0,
    *,
    decoder: Decoder | Spec | str | None = None,
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
    kept = pre_roll_ms, keep_segments
    if window_s is not None:
        made = in_torch(model, "an approximate stream")
        windowed: WindowedStream = with_torch("speechkit.streaming.windowed").WindowedStream(
            made, sample_rate, window_s, right_s, hop_s, decoder, vad, *kept
        )
        return windowed
    return Stream(resolve(model), sample_rate, max_latency_s, decoder, vad, *kept)


class Stream(Session):
    """One session; `feed` any number of samples at a time, then `finish`.

    `latency_s` is the audio needed after the beginning of a frame until its score is returned and
    the vad has decided. A stream belongs to one thread; the model, the `decoder` and the `vad` may
    be shared.
    """

    approximate = False

    def __init__(
        self,
        model: "Plan | Model",
        sample_rate: int | None = None,
        max_latency_s: float = 5.0,
        decoder: Decoder | Spec | str | None = None,
        vad: Detector = DETECTOR,
        pre_roll_ms: float | None = None,
        keep_segments: bool = False,
    ) -> None:
        kept = pre_roll_ms, keep_segments
        self._made_with = model, sample_rate, max_latency_s, decoder, vad, *kept
        found = opened(model, 1, sample_rate, decoder, vad)
        found.check_latency(max_latency_s)
        self._opened, self._scheduler = found, found.scheduler
        self.model, self.sample_rate = model, found.sample_rate
        self.latency_s = found.latency_s
        self.backend: str = self._scheduler.engine.backend
        self._keep_sound(self._scheduler.listeners.listener, *kept)

    @property
    def scores(self) -> NDArray[np.float32] | None:
        """The scores of the latest frame `[n]`, for a meter; None before the first."""
        scores = self._scheduler.scores
        return None if scores is None else scores[0]

    @property
    def state(self) -> State:
        """Everything the next event depends on, as named arrays for `safetensors.numpy`.

        Assign it to a stream of the same model, sample rate and settings to go on from there.
        """
        place = {"place": self._scheduler.place, "kept": self._kept_state()}
        return pack(self._scheduler.arrays(), place, {**self._opened.settings, **self._settings})

    @state.setter
    def state(self, stored: State) -> None:
        own = {**self._opened.settings, **self._settings}
        arrays, plain = unpack(stored, self._scheduler.arrays(), own)
        values = checked(plain, {"place": dict, "kept": object})
        kept = self._kept_of(values["kept"])
        self._scheduler.restore(arrays, values["place"])
        self._go_on(kept)

    @property
    def _fed(self) -> int:
        return int(self._scheduler.waiting.given[0])

    def _feed(self, samples: Samples) -> list[Event]:
        scheduler = self._scheduler
        # if samples do not fit at once, all are checked first, so that bad ones change nothing
        if type(samples) is not np.ndarray or samples.size > scheduler.waiting.room:
            samples = as_samples(samples)
        taken, found = scheduler.put(0, samples), scheduler.compute()
        while taken < len(samples):
            taken += scheduler.put(0, samples[taken:])
            found += scheduler.compute()
        return self._events(found) if found or scheduler.failed else []

    def _finish(self) -> list[Event]:
        self._scheduler.end(0)
        return self._events(self._scheduler.compute())

    def _events(self, found: Found) -> list[Event]:
        for error in self._scheduler.newly_broken().values():
            raise error
        return [event for _, event in found]


class StreamBatch(Resumable):
    """`size` independent sessions that are computed together, a block of each at a time.

    `latency_s` is the audio needed after the beginning of a frame until its score is returned and
    the vad has decided. `scores` are those of the latest frame, `[size, n]`, for a meter. A row
    that is finished, or broken by an error, is `reset` before the next `feed`. A batch belongs to
    one thread; the model, the `decoder` and the `vad` may be shared.
    """

    def __init__(
        self,
        model: ModelSource,
        size: int,
        sample_rate: int | None = None,
        max_latency_s: float = 5.0,
        decoder: Decoder | Spec | str | None = None,
        vad: Detector = DETECTOR,
    ) -> None:
        check_range("size", size, 1, MAX_SESSIONS, whole=True, error=StreamError)
        net = resolve(model)
        self._made_with = net, size, sample_rate, max_latency_s, decoder, vad
        found = opened(net, size, sample_rate, decoder, vad)
        found.check_latency(max_latency_s)
        self._opened, self._scheduler = found, found.scheduler
        self._scheduler.title, self._scheduler.anew = "row {}", "reset it"
        self.model, self.size = net, size
        self.sample_rate, self.latency_s = found.sample_rate, found.latency_s
        self.backend: str = self._scheduler.engine.backend
        self._rows = np.arange(size)
        self.block_samples: int = self._scheduler.waiting.block_samples
        # events that could not be returned, as the listener of another row raised
        self._late: Found = []

    def feed(self, samples: Samples | Sequence[Samples]) -> list[list[Event]]:
        """The events of each session after its next samples, `[size, N]`, N the same for all."""
        scheduler = self._scheduler
        scheduler.check_open(*scheduler.closed)
        if type(samples) is not np.ndarray or samples.size > self.size * scheduler.waiting.room:
            samples = rows_of(samples, self.size)
        taken, found = scheduler.put_rows(self._rows, samples)[0], scheduler.compute()
        while taken < samples.shape[1]:
            taken += scheduler.put_rows(self._rows, samples[:, taken:])[0]
            found += scheduler.compute()
        return self._by_row(found)

    def finish(self) -> list[list[Event]]:
        """The remaining events; afterwards a row takes no more samples until it is reset."""
        self._scheduler.check_open(*self._scheduler.closed)
        for row in range(self.size):
            self._scheduler.end(row)
        return self._by_row(self._scheduler.compute())

    def reset(self, row: int) -> None:
        """Starts a new session in a row, between blocks (after a multiple of `block_samples`).

        A broken row may be reset at any time; its blocks are computed apart if that is within one.
        """
        # True and 0.0 are in the range too
        if isinstance(row, bool) or not isinstance(row, Integral) or row not in range(self.size):
            raise StreamError(f"no row {row!r:.40}; give one from 0 to {self.size - 1}")
        gate = self._scheduler.gate
        places = [self._scheduler.waiting, *([gate.speech.waiting] if gate else [])]
        # a broken row takes no more samples to fill its block
        if row not in self._scheduler.closed and (
            filled := max(int(w.given[row] - w.taken[row]) for w in places)
        ):
            raise StreamError(
                f"{filled} samples of a block are waiting; reset a row after a multiple of "
                f"{math.lcm(*(w.block_samples for w in places))} samples"
            )
        self._scheduler.start(row)
        self._late = [(other, event) for other, event in self._late if other != row]

    @property
    def scores(self) -> NDArray[np.float32] | None:
        """The scores of the latest frame of each row, `[size, n]`; NaN in a row that has none yet.

        None before the first, and if the latest step was of some rows only.
        """
        return self._scheduler.scores

    @property
    def state(self) -> State:
        """Everything the next event depends on, as named arrays for `safetensors.numpy`.

        Assign it to a batch of the same model, size, sample rate and vad to go on from there.
        """
        scheduler = self._scheduler
        return pack(scheduler.arrays(), scheduler.place, self._opened.settings)

    @state.setter
    def state(self, stored: State) -> None:
        scheduler = self._scheduler
        scheduler.restore(*unpack(stored, scheduler.arrays(), self._opened.settings))
        self._late = []

    def _by_row(self, found: Found) -> list[list[Event]]:
        found, self._late = self._late + found, []
        if self._scheduler.failed:
            broken = self._scheduler.newly_broken()
            self._late = [(row, event) for row, event in found if row not in broken]
            raise next(iter(broken.values()))
        events: list[list[Event]] = [[] for _ in range(self.size)]
        for row, event in found:
            events[row].append(event)
        return events
