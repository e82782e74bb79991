"""Many sessions of a model that come and go, fed from threads and from asyncio."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from speechkit.component import Spec
from speechkit.config import check_range
from speechkit.data.samples import Samples, as_samples
from speechkit.decode import Decoder
from speechkit.errors import ConfigError, StreamError
from speechkit.events import Event
from speechkit.limits import MAX_KEPT_S, MAX_SESSIONS, MAX_TIME_S
from speechkit.plans.plan import Plan
from speechkit.plans.source import ModelSource, about_of, in_torch, resolve, with_torch
from speechkit.rules.vad import PostProcessing
from speechkit.streaming import scheduler
from speechkit.streaming.gate import Detector
from speechkit.streaming.listeners import SpeechListener
from speechkit.streaming.nets import PlanNet, SessionNet
from speechkit.streaming.opening import Opened
from speechkit.streaming.row_listeners import Found
from speechkit.streaming.scheduler import BROKEN

if TYPE_CHECKING:
    from speechkit.ops.separable_conv import Precision


class SessionPool:
    """Up to `capacity` sessions of a model on its device, which can join and leave at any time.

    `precision` "bfloat16" halves the memory of a session, `bytes_each`. At most `room_s` seconds of
    a session's audio can wait. `decoder` and `vad` are as in `sk.stream`.

    All methods may be called from any thread; the samples of one session must come in order.
    `join`, `feed` and `is_done` do not wait for a step, the others wait for the one in progress.
    Events are those of each `step`, or are given by `events` while `run` makes the steps.

    An error in a step breaks its sessions, and one in a decoder that session: it takes no more
    samples, and may leave. The others go on.
    """

    def __init__(
        self,
        model: ModelSource,
        capacity: int,
        sample_rate: int | None = None,
        *,
        precision: "Precision" = "float32",
        room_s: float = 1.0,
        decoder: Decoder | Spec | str | None = None,
        vad: Detector = None,
        impl: str | None = None,
    ) -> None:
        check_range("capacity", capacity, 1, MAX_SESSIONS, whole=True, error=StreamError)
        check_range("room_s", room_s, 0, MAX_KEPT_S, error=StreamError)
        net = _net_of(model, sample_rate, precision, impl)
        opened = Opened(net, capacity, decoder, vad, round(room_s * net.sample_rate))
        self.model, self.capacity = net.source, capacity
        self.sample_rate, self.latency_s = net.sample_rate, opened.latency_s
        self._scheduler, self._engine = opened.scheduler, opened.scheduler.engine
        self._scheduler.title, self._scheduler.anew = "session {}", "join anew"
        self.net, self.bytes_each = self._engine.net, self._engine.bytes_each
        self.backend: str = self._engine.backend
        self.block_samples: int = opened.scheduler.waiting.block_samples
        self._free = list(range(capacity))[::-1]
        self._rows: dict[int, int] = {}
        self._numbers = self._scheduler.numbers
        self._joined = 0
        self._in_progress: deque[Step] = deque()
        # each ends with None or an error, which is never removed
        self._inboxes: dict[int, deque[Event | StreamError | None]] = {}
        self._iterated: set[int] = set()
        self._failure: Exception | None = None
        # the lock protects what `feed` reads and writes; the rest belongs to the thread in `_alone`
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._idle = threading.Condition(self._lock)
        self._busy = False
        self._guests = self._changes = self._waiters = 0
        self._watchers: list[Callable[[], object]] = []

    def __reduce__(self) -> NoReturn:
        raise StreamError(
            "a pool cannot be copied or pickled, as its steps are under way; make another pool, "
            "or sk.stream for sessions that go through their state"
        )

    def make_ready(self, rows: int | None = None) -> None:
        """Compiles and captures the graphs for steps of up to `rows` sessions, all if None.

        Otherwise the first step of each size does this, which takes seconds on CUDA.
        """
        with self._alone():
            self._engine.make_ready(rows or self.capacity)

    def join(self, postprocess: PostProcessing | dict[str, Any] | None = None) -> int:
        """Starts a new session and returns its number; raises StreamError if the pool is full.

        `postprocess` changes this session's rule as `with_` does that of a model; raises
        ConfigError if the model has no such rule, or for an invalid one.
        """
        own = None if postprocess is None else self._listener(postprocess)
        with self._lock:
            if not self._free:
                raise StreamError(
                    f"all {self.capacity} rows of the pool are taken; let a session leave, or give "
                    "a larger capacity"
                )
            row = self._free.pop()
            self._joined += 1
            self._rows[self._joined], self._numbers[row] = row, self._joined
            if own is not None:
                self._scheduler.listeners.reset(row, own)
            return self._joined

    def leave(self, session: int) -> None:
        """Ends a session at once and drops its waiting audio."""
        with self._alone():
            row = self._row(session)
            self._fetch(0)
            with self._lock:
                del self._rows[session]
                self._scheduler.start(row)
                self._free.append(row)
                self._deliver(session, None)
                self._inboxes.pop(session)
                self._iterated.discard(session)
                self._tell()

    def feed(self, session: int, samples: Samples, wait_s: float = 0.0) -> int:
        """Takes a session's next samples and returns their number.

        It is smaller than the number given if the buffer is full and no step makes room within
        `wait_s` seconds; then make a step and feed the rest.
        """
        if not isinstance(samples, np.ndarray):
            samples = as_samples(samples)
        until_s = _until_s(wait_s)
        with self._lock:
            taken = self._put(session, samples)
            if until_s:
                while taken < len(samples) and self._wait_until(until_s):
                    taken += self._put(session, samples[taken:])
            return taken

    def feed_many(self, sessions: Sequence[int], samples: NDArray[Any]) -> NDArray[np.int64]:
        """Takes the next samples `[n, N]` of n sessions; returns how many each had room for."""
        with self._lock:
            if not isinstance(sessions, Iterable) or not len(sessions):
                raise StreamError(f"{sessions!r:.40} are no sessions; give the numbers of some")
            rows = np.array([self._row(session) for session in sessions], np.int64)
            if len(set(rows.tolist())) < len(rows):
                raise StreamError(f"{len(rows)} sessions, some twice; give each of them once")
            if self._scheduler.closed:
                self._scheduler.check_open(*rows.tolist())
            counts = self._scheduler.put_rows(rows, samples)
            if counts.any():
                self._tell()
            return counts

    async def feed_async(self, session: int, samples: Samples) -> None:
        """Takes all of a session's next samples; waits where its buffer is full."""
        rest = as_samples(samples)
        while True:
            changes = self._changes
            rest = rest[self.feed(session, rest) :]
            if not len(rest):
                return
            await self._change(changes)

    def finish(self, session: int) -> None:
        """Ends a session's audio; its remaining events are returned by later steps."""
        with self._alone(), self._lock:
            self._scheduler.end(self._row(session))
            self._tell()

    def is_done(self, session: int) -> bool:
        """True if all blocks of a finished session were computed or are in a step in progress.

        A broken session is done too.
        """
        return self._scheduler.owes[self._row(session)] == 0

    def step(self, wait_s: float = 0.0) -> "Step | None":
        """Computes the next blocks of all sessions with waiting audio.

        None if there are none, nor within `wait_s` seconds. It waits for a device only if two steps
        are in progress.
        """
        until_s = _until_s(wait_s)
        while True:
            with self._alone(patient=True):
                with self._lock:
                    changes, chosen = self._changes, self._scheduler.next()
                if chosen is not None:
                    self._fetch(self._engine.most_in_progress - 1)
                    sessions = self._numbers[chosen[0]].tolist()
                    with self._breaking():
                        step = Step(self, sessions, self._scheduler.begin(*chosen))
                    self._in_progress.append(step)
                    with self._lock:
                        self._tell()
                    return step
            with self._lock:
                if self._changes == changes and not self._wait_until(until_s):
                    return None

    def events(self, session: int) -> AsyncIterator[Event]:
        """The events of a session from the first call on until its end, as `run` makes them.

        Raises StreamError if the session breaks, or `run` ends with an error.
        """
        self._row(session)
        with self._lock:
            if session in self._iterated:
                raise StreamError(f"session {session} has an iterator of its events; use that one")
            self._iterated.add(session)
            return self._events(session, self._inboxes.setdefault(session, deque()))

    async def run(self) -> NoReturn:
        """Makes steps while sessions wait, each in a thread, until it is cancelled.

        Its error is raised in all calls that wait for room or events.
        """
        self._failure = None
        try:
            while True:
                changes = self._changes
                if not await asyncio.to_thread(self._turn):
                    await self._change(changes)
        except Exception as error:
            with self._lock:
                self._failure = error
                self._tell()
            raise

    def _turn(self) -> bool:
        """Makes a step, and delivers all events so far; False if no step was made."""
        step = self.step()
        with self._alone(patient=True):
            self._fetch(0)
        if step:
            step.events()
        return step is not None

    def _listener(self, postprocess: PostProcessing | dict[str, Any]) -> SpeechListener:
        """The listener of a session with a rule of its own."""
        rule = about_of(self.model).with_(postprocess=postprocess).rule(PostProcessing)
        listener = self._scheduler.listeners.listener
        # by exact type, since a subclass may have another rule
        if type(listener) is not SpeechListener:
            raise ConfigError("postprocess: the listener of this model has a rule of its own kind")
        return listener.by(rule)

    def _row(self, session: int) -> int:
        try:
            return self._rows[session]
        # a list has no hash
        except (KeyError, TypeError):
            raise StreamError(
                f"there is no session {session!r:.40} in the pool; join gives its number"
            ) from None

    def _put(self, session: int, samples: NDArray[Any]) -> int:
        """Takes samples as far as there is room, with the lock held."""
        taken = self._scheduler.put(self._row(session), samples)
        if taken:
            self._tell()
        return taken

    def _fetch(self, left: int) -> None:
        """Fetches the results of the oldest steps in progress, except for the newest `left`."""
        while len(self._in_progress) > left:
            step = self._in_progress.popleft()
            with self._breaking():
                found = step.fetch(self._scheduler)
            broken = self._scheduler.newly_broken()
            with self._lock:
                for index, event in found:
                    self._deliver(step.sessions[index], event)
                for row, error in broken.items():
                    session = int(self._numbers[row])
                    self._deliver(session, error)
                    if session not in self._iterated:
                        step.errors.append(error)
                    step.over.add(session)
                for session in step.over:
                    self._deliver(session, None)
                # last, for another thread may wait for it
                step.found = found
                self._tell()

    def _deliver(self, session: int, event: Event | StreamError | None) -> None:
        """Hands an event to the session's iterator; the end, None, and errors are also kept."""
        if event is None or isinstance(event, StreamError):
            self._inboxes.setdefault(session, deque())
        if session in self._inboxes:
            self._inboxes[session].append(event)

    @contextmanager
    def _breaking(self) -> Iterator[None]:
        """Hands an error in the block to the iterators of the sessions that it broke."""
        try:
            yield
        except BaseException as error:
            with self._lock:
                for session, row in self._rows.items():
                    if self._scheduler.closed.get(row) == BROKEN:
                        self._deliver(session, self._scheduler.broken_by(row, error))
                self._tell()
            raise

    @contextmanager
    def _alone(self, patient: bool = False) -> Iterator[None]:
        """Within the block no other thread steps, finishes or leaves; `patient` callers go last."""
        with self._lock:
            self._guests += not patient
            while self._busy or (patient and self._guests):
                self._idle.wait()
            self._guests -= not patient
            self._busy = True
        try:
            yield
        finally:
            with self._lock:
                self._busy = False
                self._idle.notify_all()

    def _tell(self) -> None:
        """Counts a change and wakes all who wait for one, with the lock held."""
        self._changes += 1
        if self._waiters:
            self._changed.notify_all()
        watchers, self._watchers = self._watchers, []
        for wake in watchers:
            wake()

    def _wait_until(self, until_s: float) -> bool:
        """Waits for a change, with the lock held; False if there was none in time."""
        left_s = until_s - time.monotonic() if until_s else 0.0
        if left_s <= 0:
            return False
        self._waiters += 1
        try:
            return self._changed.wait(left_s)
        finally:
            self._waiters -= 1

    async def _change(self, since: int) -> None:
        """Waits for a change after the one numbered `since`."""
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()
        wake = partial(loop.call_soon_threadsafe, changed.set)
        with self._lock:
            if self._failure is not None:
                reason = f"{type(self._failure).__name__}: {self._failure}"
                raise StreamError(f"run ended, as {reason}; call it again") from self._failure
            if self._changes != since:
                return
            self._watchers.append(wake)
        try:
            await changed.wait()
        finally:
            with self._lock:
                if wake in self._watchers:
                    self._watchers.remove(wake)

    async def _events(
        self, session: int, inbox: deque[Event | StreamError | None]
    ) -> AsyncIterator[Event]:
        try:
            while True:
                changes = self._changes
                while inbox:
                    if (event := inbox[0]) is None:
                        return
                    if isinstance(event, StreamError):
                        raise event
                    inbox.popleft()
                    yield event
                await self._change(changes)
        finally:
            self._iterated.discard(session)


def _until_s(wait_s: float) -> float:
    """The time until which to wait, on the monotonic clock, in seconds; 0 to wait for nothing."""
    if not wait_s:
        return 0.0
    check_range("wait_s", wait_s, 0, MAX_TIME_S, error=StreamError)
    return time.monotonic() + wait_s


def _net_of(
    model: ModelSource, sample_rate: int | None, precision: "Precision", impl: str | None
) -> SessionNet:
    """The net of a pool: a plan, or a Model on its device."""
    if precision == "float32" and impl is None:
        model = resolve(model)
        if isinstance(model, Plan):
            return PlanNet(model, sample_rate)
    else:
        what = f"precision={precision!r:.40}" if impl is None else f"impl={impl!r:.40}"
        model = in_torch(model, what)
    choice = with_torch("speechkit.streaming.engines.choice")
    net: SessionNet = choice.PoolNet(model, sample_rate, precision, impl)
    return net


class Step:
    """A step in progress; its results stay available."""

    def __init__(self, pool: SessionPool, sessions: list[int], begun: scheduler.Step) -> None:
        self.sessions = sessions
        self._pool, self._begun = pool, begun
        self.over: set[int] = set()
        # of its sessions, each raised once
        self.errors: list[StreamError] = []
        self.found: Found | None = None
        self._made: tuple[NDArray[Any], NDArray[np.bool_]]

    @property
    def ended(self) -> list[int]:
        """The sessions that end with this step; waits until they are known.

        Each session is in one step's list: that of its last events, or where its decoder raised.
        """
        self._wait()
        return sorted(self.over)

    def scores(self) -> dict[int, NDArray[Any]]:
        """The new scores `[T, n]` of each session in the step; waits until they are ready."""
        self._wait()
        scores, valid = self._made
        rows = zip(self.sessions, scores, valid, strict=True)
        return {session: own[marks] for session, own, marks in rows}

    def events(self) -> dict[int, list[Event]]:
        """The events of each session in the step that has any; waits until they are ready.

        Raises StreamError, once, for each session whose decoder raised.
        """
        self._wait()
        if self.errors:
            raise self.errors.pop(0)
        events: dict[int, list[Event]] = {}
        for index, event in self.found or ():
            events.setdefault(self.sessions[index], []).append(event)
        return events

    def fetch(self, scheduler: scheduler.Scheduler) -> Found:
        """Waits for the end and copies the results, in the order of steps, as listeners need it."""
        rows = self._begun.rows
        for index in self._begun.ended.tolist():
            # one that broke after this step was begun ended in the step that broke it
            if scheduler.closed.get(int(rows[index])) != BROKEN:
                self.over.add(self.sessions[index])
        found = scheduler.events(self._begun)
        scored = self._begun.scored
        self._made = scored.scores.copy(), scored.valid.copy()
        return found

    def _wait(self) -> None:
        if self.found is None:
            with self._pool._alone():
                while self in self._pool._in_progress:
                    self._pool._fetch(len(self._pool._in_progress) - 1)
        if self.found is None:
            raise StreamError("this step failed, which broke its sessions; join anew")
