"""The live sessions of a model: rows of one pool, which a thread steps beside the event loop."""

import asyncio
import logging
import threading

import numpy as np
from numpy.typing import NDArray

from speechkit.errors import SpeechkitError, StreamError
from speechkit.events import Event
from speechkit.serve.errors import busy
from speechkit.serve.models import Served
from speechkit.streaming.gate import DETECTOR
from speechkit.streaming.pool import SessionPool

ROOM_S = 2.0
"""The audio of one session that may wait for a step."""
WAKES_S = 0.2
"""How often the thread looks whether it should end."""


class Backlog:
    """Says in a session's inbox that its sound has been waiting for room."""


Inbox = asyncio.Queue[Event | Backlog | StreamError | None]
"""A session's events, then None at its end or the error that broke it."""

_log = logging.getLogger(__name__)


class Sessions:
    """Up to `capacity` live sessions of a model; belongs to the event loop that makes it."""

    def __init__(self, served: Served, capacity: int) -> None:
        vad = DETECTOR if served.about.decodes else None
        self.pool = SessionPool(served.net, capacity, room_s=ROOM_S, vad=vad)
        self._inboxes: dict[int, Inbox] = {}
        self._loop = asyncio.get_running_loop()
        self._stepped = asyncio.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._step, name=f"sessions of {served.name}")
        self._thread.start()

    def __len__(self) -> int:
        return len(self._inboxes)

    def join(self) -> tuple[int, Inbox]:
        """A new session's number and its events; raises ApiError if all rows are taken."""
        try:
            session = self.pool.join()
        except StreamError as error:
            raise busy(f"all {self.pool.capacity} live sessions are taken") from error
        inbox = self._inboxes[session] = asyncio.Queue()
        return session, inbox

    async def feed(self, session: int, samples: NDArray[np.float32]) -> None:
        """Takes all of a session's next samples; waits where its room is full."""
        while len(samples := samples[self.pool.feed(session, samples) :]):
            # the steps that make room are delivered after they have made it
            self._stepped.clear()
            await self._stepped.wait()

    async def finish(self, session: int) -> None:
        """Ends a session's audio; its last events follow, and None."""
        await asyncio.to_thread(self.pool.finish, session)

    async def leave(self, session: int) -> None:
        """Gives a session's row back."""
        del self._inboxes[session]
        # also where the connection's task is cancelled
        await asyncio.shield(self._loop.run_in_executor(None, self.pool.leave, session))

    def close(self) -> None:
        """Ends the thread."""
        self._closed = True
        self._thread.join()

    def _step(self) -> None:
        """Makes steps and hands their events to the event loop, until it is closed."""
        while not self._closed:
            events: dict[int, list[Event]] = {}
            ended: list[int] = []
            errors: list[StreamError] = []
            try:
                step = self.pool.step(wait_s=WAKES_S)
                if step is None:
                    continue
                ended = step.ended
                while not events:
                    try:
                        events = step.events()
                        break
                    except StreamError as error:
                        errors.append(error)
            # in a plugin's layer, for example; the sessions of the step are broken and done
            except Exception as error:
                _log.error("a step failed: %s: %s", type(error).__name__, error)
                errors.append(StreamError("a step of the model failed"))
            self._loop.call_soon_threadsafe(self._deliver, events, ended, errors)

    def _deliver(
        self, events: dict[int, list[Event]], ended: list[int], errors: list[StreamError]
    ) -> None:
        self._stepped.set()
        for session, found in events.items():
            if inbox := self._inboxes.get(session):
                for event in found:
                    inbox.put_nowait(event)
        for error in errors:
            self._break(error)
        for session in ended:
            if inbox := self._inboxes.get(session):
                inbox.put_nowait(None)

    def _break(self, error: StreamError) -> None:
        """Tells the sessions that an error broke: these take no more samples."""
        for session, inbox in self._inboxes.items():
            try:
                self.pool.feed(session, np.zeros(0, np.float32))
            except SpeechkitError as refused:
                if "broken" in str(refused):
                    inbox.put_nowait(error)
