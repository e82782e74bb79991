"""The segments of speech before a recogniser, by a detector with the same sessions."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from speechkit.data.samples import Samples, as_samples
from speechkit.errors import StreamError
from speechkit.events import SpeechEnd, SpeechStart
from speechkit.limits import MAX_NUMBER
from speechkit.streaming.nets import SessionNet
from speechkit.streaming.scheduler import Scheduler
from speechkit.streaming.state import AGAIN, check_array, checked

T = TypeVar("T", bound=Samples)


class DetectedSpeech:
    """The segments of speech in sessions; each is known `late_s` seconds later."""

    def __init__(self, scheduler: Scheduler, late_s: float, net: SessionNet) -> None:
        self.scheduler, self.late_s, self._net = scheduler, late_s, net
        self.waiting = scheduler.waiting
        # for each session: a start, its end, the next start, …
        self._edges: list[list[float]] = [[] for _ in range(scheduler.capacity)]

    @property
    def digest(self) -> str:
        """The digest of the detector, for states."""
        return self._net.digest

    def put(self, row: int, samples: NDArray[Any]) -> int:
        """Takes a session's next samples as far as there is room; returns their number."""
        return self.scheduler.put(row, samples)

    def feed(self, samples: Samples) -> None:
        """Finds the segments after the next samples of a single session."""
        x = as_samples(samples)
        while len(x):
            x = x[self.put(0, x) :]
            self.compute()

    def compute(self) -> None:
        """Finds the segments in everything that waits."""
        for row, event in self.scheduler.compute():
            if isinstance(event, SpeechStart | SpeechEnd):
                self._edges[row].append(event.at_s)

    def start(self, row: int) -> None:
        """Starts a new session in a row."""
        self.scheduler.start(row)
        self._edges[row] = []

    def end(self, row: int) -> None:
        """Ends a session's samples."""
        self.scheduler.end(row)

    def listening(self, blocks: Iterable[T]) -> Iterator[T]:
        """Yields the blocks `[N]` of a recording, after the detector has read each."""
        for block in blocks:
            self.feed(block)
            yield block
        self.finish()

    def finish(self) -> None:
        """Ends a single session; all its segments are known afterwards."""
        self.end(0)
        self.compute()

    def at(self, row: int, times_s: NDArray[np.float64]) -> NDArray[np.bool_]:
        """True for those of a session's times `[T]` that are in speech.

        Times must be in ascending order, within a call and between calls.
        """
        edges = self._edges[row]
        before = np.searchsorted(np.array(edges, np.float64), times_s, side="right")
        # segments before these times are no longer needed
        if len(before):
            del edges[: int(before[-1]) // 2 * 2]
        speech: NDArray[np.bool_] = before % 2 == 1
        return speech

    @property
    def state(self) -> dict[str, Any]:
        """The state as plain data and arrays."""
        arrays = self.scheduler.arrays()
        return {"arrays": arrays, "place": self.scheduler.place, "edges": self._edges}

    @state.setter
    def state(self, stored: dict[str, Any]) -> None:
        values = checked(stored, {"arrays": dict, "place": dict, "edges": list})
        arrays, edges, own = values["arrays"], values["edges"], self.scheduler.arrays()
        if len(edges) != len(self._edges) or not all(map(_are_times, edges)):
            raise StreamError(
                f"the state is damaged: the edges of speech in it are not times; {AGAIN}"
            )
        for name, like in own.items():
            check_array(name, arrays.get(name), like)
        self.scheduler.restore({name: arrays[name] for name in own}, values["place"])
        self._edges = edges


def _are_times(values: Any) -> bool:
    return isinstance(values, list) and all(
        type(value) is float and 0 <= value <= MAX_NUMBER for value in values
    )
