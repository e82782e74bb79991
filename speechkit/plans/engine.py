"""Runs a plan in C++, block by block for many sessions."""

import ctypes
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from speechkit.errors import ConfigError
from speechkit.native.libraries import load
from speechkit.plans.program import CODES, FIELDS, LoweringError, outside_bodies

SOURCE = Path(__file__).with_name("engine.cpp")
LANES = 16
"""The multiple to which channels of a row are padded."""
ERROR_BYTES = 300
Floats = NDArray[np.float32]
Integers = NDArray[np.int64]
_P, _I, _B = ctypes.c_void_p, ctypes.c_int64, ctypes.c_bool
_CALL = ctypes.CFUNCTYPE(None, _P, _I, _I, _P, _P, _P, _P, _P)


class Sizes(ctypes.Structure):
    """`speechkit_sizes` of speechkit.h."""

    _fields_ = tuple(
        (name, _I)
        for name in (
            *("rows_in", "channels_in", "rows_out", "channels_out", "state", "scratch", "group"),
        )
    )


class OutsideLayers(Protocol):
    """The layers of a plan that run outside the engine, for the sessions of one batch."""

    def bind(
        self,
        number: int,
        x: Floats,
        valid: Floats,
        other: Floats | None,
        y: Floats,
        y_valid: Floats,
    ) -> Callable[[int], None]:
        """A function that runs layer `number` for a session, again and again in the same memory.

        It reads x `[T, C]`, which of its rows are valid (0 or 1), and perhaps another input, and
        writes y and its validity.
        """
        ...


def library() -> ctypes.CDLL | str:
    """The engine, or the reason in one line why there is none."""
    found = load(SOURCE)
    if isinstance(found, ctypes.CDLL) and found.speechkit_open.restype is not _P:
        found.speechkit_open.restype = _P
        found.speechkit_open.argtypes = _P, _I, _P, _I, _I, _I, _I, _CALL, _P, _I
        found.speechkit_close.argtypes = (_P,)
        found.speechkit_get_sizes.argtypes = _P, _P
        found.speechkit_start.argtypes = _P, _P
        found.step_waiting.argtypes, found.step_waiting.restype = (_P,), None
        found.samples_are_sound.argtypes, found.samples_are_sound.restype = (_P,), _B
        found.speech_edges.argtypes, found.speech_edges.restype = (_P,), _I
        found.speechkit_step.restype = None
        found.speechkit_step.argtypes = *(_P,) * 3, _I, _I, *(_P,) * 3, _I, *(_P,) * 3
    return found


class LoadedPlan:
    """A program that was verified and laid out for blocks of `strides` strides.

    `stride` rows of `channels` make one stride. It is read-only, and sessions in other threads may
    share it. Raises LoweringError where there is no engine, and ConfigError for an invalid program.
    """

    def __init__(
        self, table: Integers, weights: Floats, stride: int, channels: int, strides: int
    ) -> None:
        found = library()
        if isinstance(found, str):
            raise LoweringError(found)
        self.library = found
        table = np.ascontiguousarray(table, dtype=np.int64)
        weights = np.ascontiguousarray(weights, dtype=np.float32)
        error = ctypes.create_string_buffer(ERROR_BYTES)
        self.outside = _outside(table, (stride, channels), strides)
        # referenced here, so that it lives as long as the plan
        self._call = _CALL(_run_outside) if self.outside else _CALL()
        self.address = found.speechkit_open(
            *(table.ctypes.data, len(table), weights.ctypes.data, len(weights)),
            *(stride, channels, strides, self._call, error, ERROR_BYTES),
        )
        if not self.address:
            raise ConfigError(f"the plan is invalid: {error.value.decode()}; export it anew")
        weakref.finalize(self, found.speechkit_close, self.address)
        sizes = Sizes()
        found.speechkit_get_sizes(self.address, ctypes.addressof(sizes))
        self.rows_in: int = sizes.rows_in
        self.rows_out: int = sizes.rows_out
        self.channels_in: int = sizes.channels_in
        self.channels_out: int = sizes.channels_out
        self.state_size: int = sizes.state
        self.scratch_size: int = sizes.scratch
        self.group: int = sizes.group

    def new_states(self, sessions: int) -> Floats:
        """The states of sessions before their first row, `[sessions, S]`."""
        states = aligned(sessions, self.state_size)
        for row in range(sessions):
            self.start(states[row])
        return states

    def start(self, state: Floats) -> None:
        """Sets the state of one session to that before its first row."""
        self.library.speechkit_start(self.address, state.ctypes.data)


class Outside:
    """What the instructions `call` of a plan run: the layers outside the engine."""

    def __init__(self, plan: LoadedPlan, layers: OutsideLayers | None) -> None:
        self._plan, self._layers = plan, layers
        self._error: BaseException | None = None
        # one for each place of a step's scratch
        self._bound: dict[Any, Callable[[int], None]] = {}
        self.context = 0
        if layers is not None:
            self.context = id(self)
            _contexts[self.context] = self

    def check(self) -> None:
        """Raises the error of a layer in the latest step."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def run(self, number: int, session: int, *addresses: int | None) -> None:
        """Runs a layer outside the engine: x, its validity, another input, y and its validity."""
        try:
            bound = self._bound.get((number, addresses))
            if bound is None:
                bound = self._bound[number, addresses] = self._bind(number, *addresses)
            bound(session)
        # nothing may be raised through C++
        except BaseException as error:
            self._error = error

    def _bind(self, number: int, *addresses: int | None) -> Callable[[int], None]:
        assert self._layers is not None
        (rows_in, channels_in), (rows, channels) = self._plan.outside[number]
        x, valid, other, y, y_valid = addresses
        return self._layers.bind(
            number,
            _view(x, rows_in, channels_in),
            _view(valid, 1, rows_in)[0],
            None if other is None else _view(other, rows, channels),
            _view(y, rows, channels),
            _view(y_valid, 1, rows)[0],
        )


class Steps:
    """Steps of up to `sessions` sessions over `blocks` blocks at a time, with prepared memory.

    `y [sessions, blocks, T, C]` and `valid [sessions, blocks, T]` are the latest results; `states`
    are written in place. `rows [sessions]` names the session of each row of x, and `real` is the
    number of its valid rows; both are to be set before a call.
    """

    def __init__(
        self,
        plan: LoadedPlan,
        states: Floats,
        sessions: int,
        blocks: int,
        outside: OutsideLayers | None = None,
    ) -> None:
        self.y = np.zeros((sessions, blocks, plan.rows_out, plan.channels_out), np.float32)
        self.valid = np.zeros((sessions, blocks, plan.rows_out), np.bool_)
        self.rows = np.arange(sessions)
        self.real = np.full(sessions, blocks * plan.rows_in)
        self._scratch = aligned(min(sessions * blocks, plan.group), plan.scratch_size)
        self._kept, self._outside = (plan, states), Outside(plan, outside)
        self._step = plan.library.speechkit_step
        self._before = plan.address, states.ctypes.data, self._scratch.ctypes.data
        self._blocks = blocks
        self._rows = self.rows.ctypes.data, self.real.ctypes.data
        self._after = self.y.ctypes.data, self.valid.ctypes.data, self._outside.context

    def at(self, address: int, x_step: int, count: int) -> None:
        """A step of the first `count` rows, whose x is at an address, `x_step` floats apart."""
        self._step(*self._before, count, self._blocks, *self._rows, address, x_step, *self._after)
        self._outside.check()

    def __call__(self, x: Floats) -> None:
        """A step over x `[sessions, N]` or `[sessions, N, C]` in C order."""
        self.at(x.ctypes.data, x.strides[0] // 4, len(x))


_contexts: weakref.WeakValueDictionary[int, Outside] = weakref.WeakValueDictionary()


def _run_outside(context: int, number: int, session: int, *addresses: int | None) -> None:
    _contexts[context].run(number, session, *addresses)


def _outside(
    table: Integers, first: tuple[int, int], strides: int
) -> dict[int, tuple[tuple[int, int], tuple[int, int]]]:
    """The (rows, channels) of the input and the output of each layer outside the engine."""
    table = table[outside_bodies(table)]
    shape = [FIELDS.index("rows"), FIELDS.index("channels")]
    values = [first, *((int(rows), int(channels)) for rows, channels in table[:, shape])]
    blocks = [(strides * rows, channels) for rows, channels in values]
    return {
        int(row[FIELDS.index("size")]): (blocks[row[FIELDS.index("input")]], blocks[number])
        for number, row in enumerate(table, start=1)
        if row[FIELDS.index("code")] == CODES.index("call")
    }


def _view(address: int | None, rows: int, channels: int) -> Floats:
    """The rows of channels at an address."""
    width = channels if rows == 1 else padded(channels)
    memory = (ctypes.c_float * (rows * width)).from_address(address or 0)
    return np.ctypeslib.as_array(memory).reshape(rows, width)[:, :channels]


def padded(channels: int) -> int:
    """The floats of a row of channels."""
    return -(-channels // LANES) * LANES


def aligned(*shape: int) -> Floats:
    """Zeros whose memory begins on a cache line."""
    count = int(np.prod(shape))
    memory = np.zeros(count + LANES, np.float32)
    start = -memory.ctypes.data // 4 % LANES
    return memory[start : start + count].reshape(shape)
