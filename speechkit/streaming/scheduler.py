"""Sessions of one model in the rows of an engine: what is computed next, and the events of it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechkit.errors import StreamError
from speechkit.limits import MAX_NUMBER
from speechkit.plans.timing import blocks_to_end
from speechkit.streaming.engines.engine import Engine, Scored
from speechkit.streaming.gate import Gate
from speechkit.streaming.row_listeners import Clock, Found, RowListeners
from speechkit.streaming.state import AGAIN, State, checked
from speechkit.streaming.waiting import Rows, numbers

PLACE = {"given": list, "taken": list, "started": list, "owed": list, "listening": list}
"""The values in a state besides the engine's arrays and the gate."""


@dataclass(frozen=True)
class Step:
    """A step that may be in progress: its sessions, their places before it, and those that end."""

    rows: Rows
    scored: Scored
    clock: Clock
    ended: Rows


class Scheduler:
    """Sessions in the rows of an engine, each at its own pace.

    A session is started, takes samples, and is ended; its blocks are computed together with those
    of the others. The `gate` blanks the scores of a recogniser outside speech. A scheduler belongs
    to one thread.
    """

    def __init__(
        self,
        engine: Engine,
        listeners: RowListeners,
        sample_rate: int,
        gate: Gate | None = None,
    ) -> None:
        self.engine, self.listeners, self.gate = engine, listeners, gate
        self.waiting = w = engine.waiting
        self.capacity = len(w.given)
        # the blocks that an ended session still needs, −1 for one that has not ended
        self.owed = np.full(self.capacity, -1)
        self.owes = numbers(self.owed)
        # the scores of the latest step of `compute`
        self.latest: Scored | None = None
        self._now = Clock(w.given, w.taken, w.started, w.block_samples, sample_rate)
        self._all = np.arange(self.capacity)
        self._ending = False

    def put(self, row: int, samples: NDArray[Any]) -> int:
        """Takes a session's next samples `[N]` as far as there is room; returns their number."""
        count = self.waiting.put(row, samples)
        if self.gate:
            self.gate.speech.put(row, samples[:count])
        return count

    def put_rows(self, rows: Rows, samples: NDArray[Any]) -> Rows:
        """Takes the next samples `[n, N]` of sessions; returns how many of each had room `[n]`."""
        counts = self.waiting.put_rows(rows, samples)
        if self.gate:
            for row, own, count in zip(rows.tolist(), samples, counts, strict=True):
                self.gate.speech.put(row, own[:count])
        return counts

    def start(self, row: int) -> None:
        """Starts a new session in a row."""
        self.waiting.start(row)
        self.owed[row] = -1
        self.engine.reset(np.array([row]))
        self.listeners.reset(row)
        if self.gate:
            self.gate.speech.start(row)

    def end(self, row: int) -> None:
        """Ends a session's samples."""
        left = self.waiting.given_to[row] - self.waiting.taken_from[row]
        # the last block brings the events of the end
        self.owed[row] = max(1, blocks_to_end(self.engine, left, self.waiting.block_samples))
        self._ending = True
        if self.gate:
            self.gate.speech.end(row)

    def next(self) -> tuple[Rows, int] | None:
        """The sessions with whole blocks, and how many of them to compute; None for none."""
        w = self.waiting
        each = np.where(self.owed >= 0, self.owed, (w.given - w.taken) // w.block_samples)
        (rows,) = each.nonzero()
        if not len(rows):
            return None
        blocks = self.engine.most(int(each[rows].min()))
        return self._all if len(rows) == self.capacity else rows, blocks

    def compute(self) -> Found:
        """Computes everything that waits; returns the events, each with its row."""
        found: Found = []
        if self.gate:
            self.gate.speech.compute()
        if self.capacity == 1 and not self._ending:
            return self._compute_one()
        while chosen := self.next():
            rows, blocks = chosen
            self.latest = self.engine.step(rows, blocks)
            clock = self._now if rows is self._all else self.clock(rows)
            new = self.listeners.step(rows, self.latest, clock)
            ended = self._pass_on(rows, blocks)
            if new or len(ended):
                step = Step(rows, self.latest, clock, ended)
                found += [(int(rows[i]), event) for i, event in new + self._last_events(step)]
        return found

    def _compute_one(self) -> Found:
        """The same for the only session: half of a short feed went into arrays of one number."""
        found: Found = []
        w, step, listen = self.waiting, self.engine.step, self.listeners.step
        blocks = (w.given_to[0] - w.taken_from[0]) // w.block_samples
        while blocks:
            count = self.engine.most(blocks)
            self.latest = scored = step(self._all, count)
            found += listen(self._all, scored, self._now)
            w.taken_from[0] += count * w.block_samples
            blocks -= count
        return found

    def begin(self, rows: Rows, blocks: int) -> Step:
        """Starts the computation of blocks of sessions; call `events` of each step in order."""
        if self.gate:
            self.gate.speech.compute()
        clock = self.clock(rows)
        scored = self.engine.step(rows, blocks)
        return Step(rows, scored, clock, self._pass_on(rows, blocks))

    def events(self, step: Step) -> Found:
        """The events of a step, each with the index of its session."""
        return self.listeners.step(step.rows, step.scored, step.clock) + self._last_events(step)

    def clock(self, rows: Rows) -> Clock:
        """The places of sessions now."""
        given, taken, started, *each = self._now
        return Clock(given[rows], taken[rows], started[rows], *each)

    def _pass_on(self, rows: Rows, blocks: int) -> Rows:
        """Makes room after a step; returns the indices of the sessions that it ended."""
        self.waiting.pass_on(rows, blocks)
        if not self._ending:
            return rows[:0]
        owed = self.owed[rows]
        left = np.where(owed > 0, owed - blocks, owed)
        self.owed[rows] = left
        self._ending = bool((self.owed > 0).any())
        ended: Rows = ((owed > 0) & (left == 0)).nonzero()[0]
        return ended

    def _last_events(self, step: Step) -> Found:
        """The events at the end of sessions."""
        found: Found = []
        for index in step.ended.tolist():
            clock = step.clock
            end_s = int(clock.given[index] - clock.started[index]) / clock.sample_rate
            events = self.listeners.finish(int(step.rows[index]), end_s)
            found += [(index, event) for event in events]
        return found

    def arrays(self) -> State:
        """The arrays of a state: the engine's `[capacity, ...]`, and the incomplete blocks."""
        rows = [
            {**self.engine.state(row), "pending": self.waiting.pending(row)}
            for row in range(self.capacity)
        ]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    @property
    def place(self) -> dict[str, Any]:
        """The plain values of a state, which may contain arrays."""
        w = self.waiting
        numbers = {"given": w.given, "taken": w.taken, "started": w.started, "owed": self.owed}
        return {
            **{name: array.tolist() for name, array in numbers.items()},
            "listening": self.listeners.states,
            "gate": self.gate and self.gate.state,
        }

    def restore(self, arrays: State, place: dict[str, Any]) -> None:
        """Restores a state; raises StreamError for a damaged one, and changes nothing then."""
        values = checked(place, {**PLACE, "gate": object})
        rows = [values[name] for name in ("started", "taken", "given", "owed")]
        if any(len(row) != self.capacity for row in [*rows, values["listening"]]) or not all(
            map(self._fits, *rows)
        ):
            raise StreamError(f"the state is damaged: it counts wrongly; {AGAIN}")
        # parts that may raise are restored first, and undone if a later one raises
        was = self.listeners.states
        self.listeners.states = values["listening"]
        if self.gate:
            try:
                self.gate.state = values["gate"]
            except StreamError:
                self.listeners.states = was
                raise
        pending = arrays.pop("pending")
        for row, (started, taken, given, owed) in enumerate(zip(*rows, strict=True)):
            self.engine.restore(row, {name: array[row] for name, array in arrays.items()})
            self.waiting.restore(row, started, taken, pending[row, : given - taken])
            self.owed[row] = owed
        self._ending = bool((self.owed > 0).any())

    def _fits(self, *place: Any) -> bool:
        """True for the place of a session between two steps: started, taken, given, owed."""
        if not all(type(number) is int and -1 <= number <= MAX_NUMBER for number in place):
            return False
        started, taken, given, owed = place
        block = self.waiting.block_samples
        if owed == 0:
            return bool(0 <= started <= taken == given)
        return bool(owed < 0 <= started <= taken <= given < taken + block and taken % block == 0)
