"""The samples in events: from before the start of speech, and of complete segments."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechkit.config import check_range
from speechkit.errors import ConfigError, StreamError
from speechkit.events import Event, Listener, SpeechEnd, SpeechStart
from speechkit.limits import MAX_KEPT_S
from speechkit.rules.vad import UNBOUNDED
from speechkit.streaming.listeners import SpeechListener
from speechkit.streaming.state import AGAIN, check_array, checked
from speechkit.units import Seconds, to_samples

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kept:
    """The samples `[N]` from number `first` on, and the start of the open segment, −1 if none."""

    first: int
    begin: int
    sound: NDArray[np.float32]


class KeptSound:
    """The latest audio of a session, for events with samples.

    It reaches back from a decision to the earliest possible start, and `pre_roll_ms` further. With
    `segments` it reaches back to the start of the open segment, at most `MAX_KEPT_S`. Raises
    ConfigError if the listener is not a speech detector.
    """

    def __init__(
        self,
        listener: Listener,
        sample_rate: int,
        latency_s: float,
        pre_roll_ms: float,
        segments: bool,
    ) -> None:
        if not isinstance(listener, SpeechListener):
            raise ConfigError(
                "pre_roll_ms and keep_segments are for speech detection; leave them out"
            )
        check_range("pre_roll_ms", pre_roll_ms, 0, 1000 * MAX_KEPT_S)
        rule, frame_s = listener.rule, listener.frame_s
        late_s = latency_s + listener.lag_s + (rule.shortest + rule.before + 1) * frame_s
        # a segment is split at its least probable frame, which may be half a segment back
        if rule.longest < UNBOUNDED:
            late_s += min(rule.longest * frame_s, MAX_KEPT_S)
        self._rate, self._segments = sample_rate, segments
        self._pre_roll = self._samples(pre_roll_ms / 1000)
        self._behind = self._samples(late_s) + self._pre_roll
        self._longest = self._samples(MAX_KEPT_S)
        # kept samples are from `start` to `end`; the sample at `start` is number `first`
        self._sound = np.empty(0, np.float32)
        self._start = self._end = self._first = 0
        self._begin = -1

    def feed(self, samples: NDArray[np.float32], events: Iterable[Event]) -> list[Event]:
        """Adds a session's next samples `[N]`; returns `events` with their samples filled in."""
        if self._end + len(samples) > len(self._sound):
            held = self._sound[self._start : self._end]
            self._sound = np.empty(2 * (len(held) + len(samples)), np.float32)
            self._sound[: len(held)] = held
            self._start, self._end = 0, len(held)
        self._sound[self._end : self._end + len(samples)] = samples
        self._end += len(samples)
        found = [self._with_samples(event) for event in events]
        self._forget()
        return found

    @property
    def state(self) -> Kept:
        """The state."""
        sound = self._sound[self._start : self._end].copy()
        return Kept(self._first, self._begin, sound)

    @state.setter
    def state(self, kept: Kept) -> None:
        self._first, self._begin = kept.first, kept.begin
        self._sound = kept.sound.copy()
        self._start, self._end = 0, len(self._sound)

    def restored(self, values: Any) -> Kept:
        """A state from its `asdict` form; raises StreamError for other data."""
        kept = Kept(**checked(values, {"first": int, "begin": int, "sound": np.ndarray}))
        check_array("sound", kept.sound, np.empty(kept.sound.size, np.float32))
        if kept.first < 0 or kept.begin > kept.first + len(kept.sound):
            raise StreamError(f"the state is damaged: its sample counts are invalid; {AGAIN}")
        return kept

    def _samples(self, seconds: float) -> int:
        return to_samples(Seconds(seconds), self._rate)

    def _with_samples(self, event: Event) -> Event:
        if isinstance(event, SpeechStart):
            self._begin = max(0, self._samples(event.at_s) - self._pre_roll)
            return replace(event, samples=self._cut(self._begin, event.decided_s))
        if isinstance(event, SpeechEnd):
            begin, self._begin = self._begin, -1
            if self._segments:
                return replace(event, samples=self._cut(begin, event.at_s))
        return event

    def _cut(self, begin: int, end_s: float) -> NDArray[np.float32]:
        """A copy of the samples from number `begin` to a time."""
        if begin < self._first:
            _log.warning(
                "a segment is longer than %g s; its event has only the last of its samples: give "
                "the model a max_speech_s",
                MAX_KEPT_S,
            )
        start, end = (max(0, at - self._first) for at in (begin, self._samples(end_s)))
        return self._sound[self._start : self._end][start:end].copy()

    def _forget(self) -> None:
        """Drops samples that no later event can contain."""
        now = self._first + self._end - self._start
        needed = now - self._behind
        if self._segments and self._begin >= 0:
            needed = min(needed, max(self._begin, now - self._longest))
        gone = max(0, needed - self._first)
        self._first += gone
        self._start += gone
