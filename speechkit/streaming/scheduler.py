"""Sessions of one model in the rows of an engine: what is computed next, and the events of it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

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
FINISHED, BROKEN = "finished", "broken"


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

    If a step raises, its sessions are broken, since some of their states may be changed already. A
    session whose listener raises is broken too. Broken sessions take no samples until they are
    started anew.
    """

    title, anew = "this stream", "make a new one"
    """The name of a session in messages, in which {} is its number, and how to begin another."""

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
        # the rows that take no samples, and why: FINISHED or BROKEN
        self.closed: dict[int, str] = {}
        self.failed = listeners.failed
        self.numbers = np.arange(self.capacity)
        # the latest step of `compute`, and `scores` before it where it may have no valid frame
        self._latest: Scored | None = None
        self._scores: NDArray[np.float32] | None = None
        self._now = Clock(w.given, w.taken, w.started, w.block_samples, sample_rate)
        self._all = np.arange(self.capacity)
        self._ending = False

    @property
    def scores(self) -> NDArray[np.float32] | None:
        """The scores of each session's latest valid frame `[capacity, n]`, NaN where it has none.

        None if no session has one, or if the latest step of `compute` was of some sessions only.
        """
        latest = self._latest
        # in most steps the last frame of every session is valid
        if latest and all(latest.valid[:, -1, -1].tolist()):
            newest: NDArray[np.float32] = latest.scores[:, -1, -1].copy()
            return newest
        before = None if self._scores is None else self._scores.copy()
        if latest is None or not latest.valid.any():
            return before
        valid = latest.valid.reshape(self.capacity, -1)
        last = valid.shape[1] - 1 - valid[:, ::-1].argmax(1)
        found: NDArray[np.float32] = latest.scores.reshape(*valid.shape, -1)[self._all, last]
        none = ~valid.any(1)
        found[none] = np.nan if before is None else before[none]
        return found

    def put(self, row: int, samples: NDArray[Any]) -> int:
        """Takes a session's next samples `[N]` as far as there is room; returns their number."""
        if self.closed:
            self.check_open(row)
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
        self._scores, self._latest = self.scores, None
        if self._scores is not None:
            self._scores[row] = np.nan
            if np.isnan(self._scores).all():
                self._scores = None
        self.waiting.start(row)
        self.owed[row] = -1
        self.closed.pop(row, None)
        self.engine.reset(np.array([row]))
        self.listeners.reset(row)
        if self.gate:
            self.gate.speech.start(row)

    def end(self, row: int) -> None:
        """Ends a session's samples."""
        self.check_open(row)
        self.closed[row] = FINISHED
        left = self.waiting.given_to[row] - self.waiting.taken_from[row]
        # the last block brings the events of the end
        self.owed[row] = max(1, blocks_to_end(self.engine, left, self.waiting.block_samples))
        self._ending = True
        if self.gate:
            self.gate.speech.end(row)

    def check_open(self, *rows: int) -> None:
        """Raises StreamError if a session is finished or broken."""
        for row in rows:
            if row in self.closed:
                raise StreamError(f"{self._name(row)} is {self.closed[row]}; {self.anew}")

    def broken_by(self, row: int, error: BaseException) -> StreamError:
        """The error for callers that wait for a broken session."""
        reason = f"{type(error).__name__}: {error}"
        broken = StreamError(
            f"{self._name(row)} is broken, since a step raised {reason}; {self.anew}"
        )
        broken.__cause__ = error
        return broken

    def newly_broken(self) -> dict[int, StreamError]:
        """Closes the sessions whose listener raised since the last call; their errors, by row."""
        failed = self.failed.items()
        new = {row: error for row, error in failed if self.closed.get(row) != BROKEN}
        self._break(new)
        return {row: self.broken_by(row, error) for row, error in new.items()}

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
            self._detect()
        if self.capacity == 1 and not self._ending:
            return self._compute_one()
        while chosen := self.next():
            rows, blocks = chosen
            if self._ending or rows is not self._all:
                # the step overwrites them, and has no valid frames after the end
                self._scores = self.scores if rows is self._all else None
            try:
                scored = self.engine.step(rows, blocks)
                self._latest = scored if rows is self._all else None
                clock = self._now if rows is self._all else self.clock(rows)
                new = self.listeners.step(rows, scored, clock)
                ended = self._pass_on(rows, blocks)
                if new or len(ended):
                    new += self._last_events(Step(rows, scored, clock, ended))
                    found += [(int(rows[index]), event) for index, event in new]
            except BaseException:
                self._fail(rows)
                raise
        return found

    def _compute_one(self) -> Found:
        """`compute` for a single session; arrays of one number would double a short feed's time."""
        found: Found = []
        w, step, listen = self.waiting, self.engine.step, self.listeners.step
        blocks = (w.given_to[0] - w.taken_from[0]) // w.block_samples
        try:
            while blocks:
                count = self.engine.most(blocks)
                self._latest = scored = step(self._all, count)
                found += listen(self._all, scored, self._now)
                w.taken_from[0] += count * w.block_samples
                blocks -= count
        except BaseException:
            self._fail(self._all)
            raise
        return found

    def _detect(self) -> None:
        """Computes the detector's scores before those of the sessions."""
        speech = cast(Gate, self.gate).speech
        try:
            speech.compute()
        except BaseException:
            closed = speech.scheduler.closed.items()
            self._break([row for row, why in closed if why == BROKEN])
            raise

    def begin(self, rows: Rows, blocks: int) -> Step:
        """Starts the computation of blocks of sessions; call `events` of each step in order."""
        if self.gate:
            self._detect()
        clock = self.clock(rows)
        try:
            scored = self.engine.step(rows, blocks)
            return Step(rows, scored, clock, self._pass_on(rows, blocks))
        except BaseException:
            self._break(rows.tolist())
            raise

    def events(self, step: Step) -> Found:
        """The events of a step, each with the index of its session."""
        try:
            found = self.listeners.step(step.rows, step.scored, step.clock)
            return found + self._last_events(step)
        except BaseException:
            self._break(step.rows.tolist())
            raise

    def clock(self, rows: Rows) -> Clock:
        """The samples given, taken and at the start of sessions now."""
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

    def _fail(self, rows: Rows) -> None:
        """Closes the sessions of a step that raised; it may have overwritten the latest scores."""
        self._latest = self._scores = None
        self._break(rows.tolist())

    def _break(self, rows: Iterable[int]) -> None:
        """Closes sessions after an error, which may have changed some of their states."""
        for row in rows:
            self.closed[row] = BROKEN
            # nothing more is computed for them
            self.owed[row] = 0

    def _name(self, row: int) -> str:
        return self.title.format(self.numbers[row])

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
        self.check_open(*(row for row, why in self.closed.items() if why == BROKEN))
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
            raise StreamError(f"the state is damaged: its sample counts are invalid; {AGAIN}")
        # parts that may raise are restored first, and undone if a later one raises
        was = self.listeners.states
        self.listeners.states = values["listening"]
        if self.gate:
            try:
                self.gate.state = values["gate"]
            except StreamError:
                self.listeners.states = was
                raise
        self._latest = self._scores = None
        pending = arrays.pop("pending")
        for row, (started, taken, given, owed) in enumerate(zip(*rows, strict=True)):
            self.engine.restore(row, {name: array[row] for name, array in arrays.items()})
            self.waiting.restore(row, started, taken, pending[row, : given - taken])
            self.owed[row] = owed
        self.closed = {row: FINISHED for row, owed in enumerate(rows[3]) if owed >= 0}
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
