"""The engine in C++: a step of any of its sessions is one native call."""

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechkit.plans.engine import Outside, aligned
from speechkit.plans.sessions import Sessions
from speechkit.plans.timing import Timed
from speechkit.streaming.engines.engine import Scores
from speechkit.streaming.waiting import Rows, SoundCheck, Waiting, numbers

MOST_BLOCKS = 16
"""More blocks of a session in one step are not faster."""
MOST_VIEWS = 64
_P, _I = ctypes.c_void_p, ctypes.c_int64


class _Waiting(ctypes.Structure):
    """`Waiting` of plans/engine.cpp."""

    _fields_ = (
        *((name, _P) for name in ("plan", "states", "scratch", "sound")),
        *(("room", _I), ("given", _P), ("taken", _P), ("y", _P), ("valid", _P), ("context", _P)),
        *(("rows", _P), ("sessions", _I), ("blocks", _I)),
    )


class NativeEngine:
    """Computes blocks of the sessions in `waiting` in C++; see `Engine`."""

    most_in_progress = 1

    def __init__(
        self, net: Timed, sessions: Sessions, waiting: Waiting, in_torch: Sequence[str] = ()
    ) -> None:
        self.net, self.waiting, self.plan = net, waiting, sessions.plan
        self.stride, self.rate, self.delay = net.stride, net.rate, net.delay
        names = ", ".join(dict.fromkeys(in_torch))
        self.backend = f"native, in torch: {names}" if names else "native"
        plan, capacity = sessions.plan, len(waiting.given)
        frames = MOST_BLOCKS * plan.rows_out
        self._sessions = sessions
        self._outside = Outside(plan, sessions.outside)
        self.bytes_each = self._sessions.native[0].nbytes
        self._y = aligned(capacity * frames, plan.channels_out)
        self._valid = np.zeros(capacity * frames, np.bool_)
        self._scratch = aligned(min(capacity * MOST_BLOCKS, plan.group), plan.scratch_size)
        self._rows: Rows | None = None
        states, memory = self._sessions.native, (self._y, self._valid)
        self._arguments = to = _Waiting(plan=plan.address, room=waiting.room)
        to.states, to.scratch = states.ctypes.data, self._scratch.ctypes.data
        to.sound, to.given = waiting.sound.ctypes.data, waiting.given.ctypes.data
        to.taken, to.context = waiting.taken.ctypes.data, self._outside.context
        to.y, to.valid = (array.ctypes.data for array in memory)
        self._address = ctypes.addressof(to)
        self._step = plan.library.step_waiting
        self._views: dict[tuple[int, int], Scores] = {}
        waiting.is_sound = sound_check(plan.library, waiting)

    def most(self, blocks: int) -> int:
        return min(blocks, MOST_BLOCKS)

    def make_ready(self, sessions: int) -> None:
        pass

    def step(self, rows: Rows, blocks: int) -> Scores:
        # an address takes a microsecond, and a stream has the same rows every time
        if rows is not self._rows:
            self._rows = rows
            self._arguments.sessions, self._arguments.rows = len(rows), rows.ctypes.data
        self._arguments.blocks = blocks
        self._step(self._address)
        self._outside.check()
        return self._views.get((len(rows), blocks)) or self._view(len(rows), blocks)

    def reset(self, rows: Rows) -> None:
        for row in rows.tolist():
            self._sessions.start(row)

    def state(self, row: int) -> dict[str, NDArray[Any]]:
        return self._sessions.state(row)

    def restore(self, row: int, state: dict[str, NDArray[Any]]) -> None:
        self._sessions.restore(row, state)

    def _view(self, sessions: int, blocks: int) -> Scores:
        """The memory of a step's scores, which is kept for the steps of the same size."""
        shape = sessions, blocks, self.plan.rows_out
        count = math.prod(shape)
        scores = self._y[:count].reshape(*shape, self.plan.channels_out)
        if len(self._views) == MOST_VIEWS:
            self._views.clear()
        view = self._views[sessions, blocks] = Scores(scores, self._valid[:count].reshape(shape))
        return view


def sound_check(library: ctypes.CDLL, waiting: Waiting) -> SoundCheck:
    """A quick check of samples in `waiting`."""
    arguments = np.array([waiting.sound.ctypes.data, 0, 0])
    address, to = arguments.ctypes.data, numbers(arguments)
    # it is too short to let another thread run
    check = ctypes.PyDLL(library._name).samples_are_sound
    check.argtypes, check.restype = (_P,), ctypes.c_bool

    def is_sound(first: int, count: int) -> bool:
        # `Samples` of plans/engine.cpp
        to[1], to[2] = first, count
        sound: bool = check(address)
        return sound

    return is_sound
