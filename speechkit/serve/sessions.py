"""The live sessions of a model: rows of one pool, which one thread steps beside asyncio."""

import asyncio
import threading
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from speechkit.errors import StreamError
from speechkit.events import Event
from speechkit.serve.errors import busy
from speechkit.serve.models import Net
from speechkit.streaming.gate import DETECTOR
from speechkit.streaming.pool import SessionPool, Step

POLL_S = 0.5
"""How often the thread looks whether it is to end."""
Outcome = Event | StreamError | None
"""What a session gives: events, and at the end None or the error that broke it."""


class Row:
    """One live session."""

    def __init__(self, sessions: "Sessions", number: int) -> None:
        self._pool, self._sessions, self.number = sessions.pool, sessions, number
        self.outcomes: asyncio.Queue[Outcome] = asyncio.Queue()
        self.room = asyncio.Event()

    async def feed(self, samples: NDArray[np.float32]) -> None:
        """Takes samples `[N]` at the pool's rate; waits where its buffer is full."""
        while len(samples):
            self.room.clear()
            samples = samples[self._pool.feed(self.number, samples) :]
            if len(samples):
                await self.room.wait()

    async def end(self) -> None:
        """Ends the sound; the rest of the outcomes follow, None the last."""
        await asyncio.to_thread(self._pool.finish, self.number)

    async def leave(self) -> None:
        """Frees the row, also where the caller is cancelled."""
        await asyncio.shield(asyncio.to_thread(self._sessions.leave, self.number))


class Sessions:
    """Up to `capacity` live sessions of a plan or model.

    Raises StreamError for a model that cannot stream.
    """

    def __init__(self, net: Net, capacity: int) -> None:
        self.pool = SessionPool(net, capacity, vad=DETECTOR)
        self._rows: dict[int, Row] = {}
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def join(self, thresholds: Mapping[str, float]) -> Row:
        """A new session, with thresholds of speech of its own where some are given.

        Raises ApiError if all rows are taken, and ConfigError for thresholds that do not fit.
        """
        if self._thread is None:
            loop = asyncio.get_running_loop()
            self._thread = threading.Thread(target=self._run, args=(loop,), name="sessions")
            self._thread.start()
        try:
            number = self.pool.join(dict(thresholds) or None)
        except StreamError:
            raise busy(
                f"all {self.pool.capacity} live sessions of this model are taken; try again later"
            ) from None
        row = self._rows[number] = Row(self, number)
        return row

    def leave(self, number: int) -> None:
        """Ends a session at once."""
        self._rows.pop(number)
        self.pool.leave(number)

    def close(self) -> None:
        """Ends the thread."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._closing.is_set():
            try:
                step = self.pool.step(wait_s=POLL_S)
                if step is None:
                    continue
                events, errors = _outcome(step)
            # it broke the sessions of its step
            except Exception as error:
                self._break(loop, error)
                continue
            found: dict[int, list[Outcome]] = {n: [*own] for n, own in events.items()}
            for number in step.ended:
                found.setdefault(number, []).append(errors.pop(number, None))
            loop.call_soon_threadsafe(self._deliver, step.sessions, found)

    def _break(self, loop: asyncio.AbstractEventLoop, error: Exception) -> None:
        """Tells the sessions that a failed step broke, which take no more samples."""
        broken = StreamError(f"the step failed: {type(error).__name__}")
        done = [n for n in list(self._rows) if self.pool.is_done(n)]
        loop.call_soon_threadsafe(self._deliver, done, {n: [broken] for n in done})

    def _deliver(self, stepped: Sequence[int], found: Mapping[int, Sequence[Outcome]]) -> None:
        for number, outcomes in found.items():
            if row := self._rows.get(number):
                for outcome in outcomes:
                    row.outcomes.put_nowait(outcome)
        for number in stepped:
            if row := self._rows.get(number):
                row.room.set()


def _outcome(step: Step) -> tuple[dict[int, list[Event]], dict[int, StreamError]]:
    """The events of a step's sessions, and the errors of those whose listener raised."""
    errors: dict[int, StreamError] = {}
    while True:
        try:
            return step.events(), errors
        except StreamError as error:
            # the message names the session
            number = next(n for n in step.ended if f"session {n} " in str(error))
            errors[number] = error
