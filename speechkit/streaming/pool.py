"""Many sessions on one device, each at its own pace: a step serves all with waiting audio.

On CUDA a step replays a graph that was captured for the number of rows and blocks. Copies of one
step overlap with the computation of the next. On the CPU the same code runs without graphs.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechkit.checkpoint import ModelSource, as_model
from speechkit.data.samples import Samples, as_samples
from speechkit.decode import Decoder
from speechkit.errors import StreamError
from speechkit.events import Event
from speechkit.models import evaluating
from speechkit.models.net import Name
from speechkit.ops.separable_conv import ActiveRows, Precision
from speechkit.streaming.engines.cuda.graphs import CpuQueue, CudaQueue, Queue
from speechkit.streaming.engines.cuda.ring_net import Memory, RingNet
from speechkit.streaming.session import block_strides, session_layer
from speechkit.tasks import Listener, listener_of

BLOCKS = 1, 2, 4
"""The numbers of blocks per session that a step can compute; more than one if all sessions lag."""
MOST_BLOCKS = BLOCKS[-1]
MOST_FLYING = 2
"""The largest number of steps in progress whose scores were not fetched."""


class SessionPool:
    """Up to `capacity` sessions of a model on its device, which can join and leave at any time.

    `precision` "bfloat16" halves the memory of a session, `bytes_each`. At most `room_s` seconds of
    a session's audio can wait. `decoder` is as in `sk.stream`, but there is no vad. A pool belongs
    to one thread; the model may be shared.
    """

    def __init__(
        self,
        model: ModelSource,
        capacity: int,
        sample_rate: int | None = None,
        *,
        precision: Precision = "float32",
        room_s: float = 1.0,
        decoder: Decoder | Name | None = None,
        impl: str | None = None,
    ) -> None:
        if capacity < 1:
            raise StreamError(f"a pool of {capacity} sessions; give at least 1")
        model = as_model(model)
        self.model, self.capacity = model, capacity
        self.sample_rate = model.sample_rate if sample_rate is None else sample_rate
        layer, weight = session_layer(model, self.sample_rate), next(model.parameters())
        self._strides = block_strides(model, layer, self.sample_rate)
        self.block_samples = self._strides * layer.stride
        self.latency_s = (layer.delay + self._strides * layer.rate) * model.frame_s
        self.net = RingNet(layer, weight.dtype, precision, impl)
        self._listener = listener_of(model, decoder)
        self._memory = Memory(self.net, capacity, MOST_BLOCKS * self._strides, weight.device)
        self._queue: Queue = CudaQueue(weight.device) if weight.is_cuda else CpuQueue()
        self.bytes_each = self._memory.bytes_each
        # waiting samples of row n are from start[n] to end[n]
        room = max(round(room_s * self.sample_rate), 2 * MOST_BLOCKS * self.block_samples)
        self._sound = np.zeros((capacity, room), np.float32)
        self._start, self._end = np.zeros((2, capacity), np.int64)
        # the number of remaining blocks of a finished session, −1 for one that is not finished
        self._owed = np.full(capacity, -1)
        self._free = list(range(capacity))[::-1]
        self._sessions: dict[int, Session] = {}
        self._joined = 0
        self._new: list[int] = []
        self._captured: dict[tuple[int, int, int], CapturedStep] = {}
        self._flying: deque[Step] = deque()
        self._steps = 0

    def __reduce__(self) -> NoReturn:
        raise StreamError(
            "a pool cannot be copied or pickled, as its steps are under way; make another pool, "
            "or sk.stream for sessions that go through their state"
        )

    def make_ready(self, rows: int | None = None) -> None:
        """Compiles and captures the graphs for steps of up to `rows` sessions, all if None.

        Otherwise the first step of each size does this, which takes seconds.
        """
        sizes = (2**n for n in range((rows or self.capacity).bit_length() + 1))
        most = 2 * (rows or self.capacity) - 1
        for size, blocks, side in product(sizes, BLOCKS, range(2)):
            if size <= most:
                self._capture(size, blocks, side)

    def join(self) -> int:
        """Starts a new session and returns its number; raises StreamError if the pool is full."""
        if not self._free:
            raise StreamError(
                f"all {self.capacity} rows of the pool are taken; let a session leave, or give a "
                "larger capacity"
            )
        self._joined += 1
        row = self._free.pop()
        self._sessions[self._joined] = Session(self._joined, row, self._listener.init())
        self._start[row] = self._end[row] = 0
        self._owed[row] = -1
        self._new.append(row)
        return self._joined

    def leave(self, session: int) -> None:
        """Ends a session at once and drops its waiting audio."""
        self._free.append(self._row(session))
        del self._sessions[session]

    def feed(self, session: int, samples: Samples) -> int:
        """Takes a session's next samples and returns their number.

        It is smaller than the number given if the buffer is full; then make a step and feed the
        rest.
        """
        row, x = self._row(session), as_samples(samples)
        if self._owed[row] >= 0:
            raise StreamError(f"session {session} is finished; join anew")
        start, end, room = self._start[row], self._end[row], self._sound.shape[1]
        if end + len(x) > room:
            self._sound[row, : end - start] = self._sound[row, start:end]
            self._start[row], end = 0, end - start
        taken = min(len(x), room - end)
        self._sound[row, end : end + taken] = x[:taken]
        self._end[row] = end + taken
        return int(taken)

    def finish(self, session: int) -> None:
        """Ends a session's audio; its remaining events are returned by later steps."""
        row = self._row(session)
        waiting = self.net.delay * self.net.stride // self.net.rate
        blocks = -(-(self._end[row] - self._start[row] + waiting) // self.block_samples)
        # the last step returns the events of the end
        self._owed[row] = max(1, blocks)

    def is_done(self, session: int) -> bool:
        """True if all blocks of a finished session were computed or are in a step in progress."""
        return bool(self._owed[self._row(session)] == 0)

    def step(self) -> "Step | None":
        """Computes the next blocks of all sessions with waiting audio; None if there are none.

        It waits for the device only if MOST_FLYING steps are in progress.
        """
        sessions = list(self._sessions.values())
        rows = np.array([session.row for session in sessions], np.int64)
        waiting = self._end[rows] - self._start[rows]
        owed = self._owed[rows]
        blocks_each = np.where(owed >= 0, owed, waiting // self.block_samples)
        (chosen,) = (blocks_each > 0).nonzero()
        if not len(chosen):
            return None
        blocks = _power_of_two(min(MOST_BLOCKS, int(blocks_each[chosen].min())))
        while len(self._flying) >= MOST_FLYING:
            self._land()
        step = self._run([sessions[index] for index in chosen], rows[chosen], blocks)
        self._flying.append(step)
        return step

    def _run(self, sessions: "list[Session]", rows: NDArray[np.int64], blocks: int) -> "Step":
        count = blocks * self.block_samples
        real = np.minimum(self._end[rows] - self._start[rows], count)
        if self._new:
            new = torch.tensor(sorted(set(self._new)))
            device = self._memory.counts.device
            self._queue.now(lambda: self._memory.reset(new.to(device)))
            self._new = []
        self._steps += 1
        captured = self._capture(_power_of_two(2 * len(rows) - 1), blocks, self._steps % 2)
        places = self._start[rows][:, None] + np.arange(count)
        # values after a session's last samples may be anything
        x = self._sound[rows[:, None], places % self._sound.shape[1]]
        self._start[rows] += real
        ending = self._owed[rows] > 0
        self._owed[rows] -= np.where(ending, blocks, 0)
        ended = ending & (self._owed[rows] == 0)
        block_events = BlockEvents(self._listener, self.block_samples, self.sample_rate, blocks)
        parts = list(zip(sessions, real.tolist(), ended.tolist(), strict=True))
        with evaluating(self.model):
            return Step(block_events, parts, captured, captured.run(rows, x, real), self._land)

    def _land(self) -> None:
        """Fetches the results of the oldest step in progress."""
        self._flying.popleft().fetch()

    def _capture(self, rows: int, blocks: int, side: int) -> "CapturedStep":
        """The captured step for these numbers; two alternate, so that copies overlap."""
        key = rows, blocks, side
        if key not in self._captured:
            with evaluating(self.model):
                strides = blocks * self._strides
                self._captured[key] = CapturedStep(
                    self.net, self._memory, self._queue, rows, strides
                )
        return self._captured[key]

    def _row(self, session: int) -> int:
        if session not in self._sessions:
            raise StreamError(f"there is no session {session} in the pool; join gives its number")
        return self._sessions[session].row


@dataclass
class Session:
    """A session of the pool: its row, its listener's state, and the samples consumed."""

    number: int
    row: int
    state: Any
    samples: int = 0


@dataclass(frozen=True)
class BlockEvents:
    """Turns the scores of blocks into events."""

    listener: Listener
    block_samples: int
    sample_rate: int
    blocks: int

    def events(
        self, session: Session, scores: Tensor, valid: Tensor, real: int, ended: bool
    ) -> list[Event]:
        """The events of `scores [T, n]` and `valid [T]` after `real` more samples of a session."""
        events = []
        parts = zip(scores.chunk(self.blocks), valid.chunk(self.blocks), strict=True)
        for block, (some, marks) in enumerate(parts, start=1):
            samples = session.samples + min(real, block * self.block_samples)
            decided_s = samples / self.sample_rate
            session.state, new = self.listener.step(session.state, some[marks].numpy(), decided_s)
            events += new
        session.samples += real
        if ended:
            events += self.listener.finish(session.state, session.samples / self.sample_rate)
        return events


class CapturedStep:
    """A step of at most `rows` sessions over `strides` strides, prepared once."""

    def __init__(self, net: RingNet, memory: Memory, queue: Queue, rows: int, strides: int) -> None:
        device, frames = memory.counts.device, strides * net.rate
        given = {
            "x": torch.zeros(rows, strides * net.stride),
            "real": torch.zeros(rows, dtype=torch.int64),
            "slots": torch.full((rows,), -1),
        }
        made = {
            "y": torch.zeros(rows, frames, net.channels, dtype=net.dtype),
            "valid": torch.zeros(rows, frames, dtype=torch.bool),
        }
        there = {name: x.to(device, copy=True) for name, x in {**given, **made}.items()}
        if device.type == "cuda":
            given, made = ({n: x.pin_memory() for n, x in d.items()} for d in (given, made))
        self._here = {**given, **made}
        self._given = [(given[name], there[name]) for name in given]
        self._made = [(there[name], made[name]) for name in made]
        self._queue = queue
        active = ActiveRows(there["slots"], memory.counts, strides)

        def work() -> None:
            y = net.step(memory, active, there["x"], there["real"])
            # into memory that no other graph writes
            there["y"].copy_(y.x.transpose(1, 2))
            there["valid"].copy_(y.valid)

        self._work = queue.capture(work)

    def run(
        self, rows: NDArray[np.int64], x: NDArray[np.float32], real: NDArray[np.int64]
    ) -> Callable[[], None]:
        """Starts a step of `rows` over x `[n, N]`; the result is a wait for its end."""
        here, n = self._here, len(rows)
        here["x"][:n] = torch.from_numpy(x)
        for name, values, nobody in (("real", real, 0), ("slots", rows, -1)):
            here[name][:n] = torch.from_numpy(values)
            here[name][n:] = nobody
        return self._queue.run(self._given, self._work, self._made)

    def made(self, count: int) -> tuple[Tensor, Tensor]:
        """The scores `[count, T, n]` and validity `[count, T]` of a step that has ended."""
        return self._here["y"][:count].clone(), self._here["valid"][:count].clone()


class Step:
    """A step in progress; its results stay available."""

    def __init__(
        self,
        block_events: BlockEvents,
        parts: Sequence[tuple[Session, int, bool]],
        captured: CapturedStep,
        wait: Callable[[], None],
        land: Callable[[], None],
    ) -> None:
        self.sessions = [session.number for session, *_ in parts]
        self._block_events, self._parts, self._captured = block_events, parts, captured
        self._wait, self._land = wait, land
        self._scores: dict[int, Tensor] | None = None
        self._events: dict[int, list[Event]] = {}

    def scores(self) -> dict[int, Tensor]:
        """The new scores `[T, n]` of each session in the step; waits until they are ready."""
        # in the order of the steps, as listeners need it
        while self._scores is None:
            self._land()
        return self._scores

    def events(self) -> dict[int, list[Event]]:
        """The events of each session in the step; waits until they are ready."""
        self.scores()
        return self._events

    def fetch(self) -> None:
        """Waits for the captured step and copies its results."""
        self._wait()
        self._scores = {}
        made = zip(self._parts, *self._captured.made(len(self._parts)), strict=True)
        for (session, real, ended), scores, valid in made:
            self._scores[session.number] = scores[valid]
            events = self._block_events.events(session, scores, valid, real, ended)
            self._events[session.number] = events
        self._parts = ()


def _power_of_two(at_most: int) -> int:
    """The largest power of two up to a number."""
    return 1 << (at_most.bit_length() - 1)
