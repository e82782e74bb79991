"""The base class of exact and approximate sessions: gaps, kept audio and copies."""

from abc import abstractmethod
from dataclasses import asdict
from typing import Any

import numpy as np

from speechkit.config import check_range
from speechkit.data.samples import Samples, as_samples
from speechkit.errors import StreamError
from speechkit.events import Event, Gap, Listener
from speechkit.limits import MAX_TIME_S
from speechkit.streaming.kept import Kept, KeptSound
from speechkit.streaming.state import Resumable


class Session(Resumable):
    """A session for one recording; `feed` any number of samples at a time, then `finish`."""

    sample_rate: int
    latency_s: float
    _kept: KeptSound | None = None

    def feed(self, samples: Samples) -> list[Event]:
        """The events after the next samples `[N]`: float32 in [-1, 1] or int16."""
        if self._kept is None:
            return self._feed(samples)
        x, events = as_samples(samples), []
        # a second at a time, to limit memory
        for start in range(0, max(1, len(x)), self.sample_rate):
            part = x[start : start + self.sample_rate]
            events += self._kept.feed(part, self._feed(part))
        return events

    def skip(self, samples: int) -> list[Event]:
        """The events after `samples` samples that were lost, the first one a `Gap`.

        Silence replaces them, so that later times are right.
        """
        most = MAX_TIME_S * self.sample_rate
        check_range("samples of a gap", samples, 0, most, whole=True, error=StreamError)
        at_s = self._fed / self.sample_rate
        events: list[Event] = []
        for start in range(0, samples, self.sample_rate):
            events += self.feed(np.zeros(min(self.sample_rate, samples - start), np.float32))
        return [Gap(samples / self.sample_rate, at_s, at_s), *events] if samples else []

    def finish(self) -> list[Event]:
        """The remaining events; afterwards the session takes no more samples."""
        events = self._finish()
        return events if self._kept is None else self._kept.feed(np.zeros(0, np.float32), events)

    def _keep_sound(
        self, listener: Listener, pre_roll_ms: float | None, keep_segments: bool
    ) -> None:
        """Adds samples to events if an option asks for them."""
        self._settings: dict[str, Any] = {
            "pre_roll_ms": pre_roll_ms,
            "keep_segments": keep_segments,
        }
        if pre_roll_ms is not None or keep_segments:
            self._kept = KeptSound(
                listener, self.sample_rate, self.latency_s, pre_roll_ms or 0, keep_segments
            )

    def _kept_state(self) -> dict[str, Any] | None:
        return None if self._kept is None else asdict(self._kept.state)

    def _kept_of(self, values: Any) -> Kept | None:
        """The kept audio in a state; raises StreamError if it is damaged."""
        return None if self._kept is None else self._kept.restored(values)

    def _go_on(self, kept: Kept | None) -> None:
        if self._kept is not None and kept is not None:
            self._kept.state = kept

    @property
    @abstractmethod
    def _fed(self) -> int:
        """The number of samples fed so far."""

    @abstractmethod
    def _feed(self, samples: Samples) -> list[Event]: ...

    @abstractmethod
    def _finish(self) -> list[Event]: ...
