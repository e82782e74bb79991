"""Runs the listeners of sessions in the rows of an engine: from scores to events."""

import ctypes
from dataclasses import asdict, astuple, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from speechkit.events import Event, Listener
from speechkit.rules import vad
from speechkit.streaming.engines.engine import Scored
from speechkit.streaming.gate import Gate
from speechkit.streaming.listeners import SpeechListener
from speechkit.streaming.waiting import Rows

EDGES_PER_FRAME = 3
"""The most edges that `speech_edges` writes for a frame: one, and two for a split."""
Found = list[tuple[int, Event]]
"""Events, each with the index of its session in a step."""


class Clock(NamedTuple):
    """The samples `[n]` of a step's sessions before the step: given, taken, and at their start."""

    given: Rows
    taken: Rows
    started: Rows
    block_samples: int
    sample_rate: int

    def decided_s(self, index: int, block: int) -> float:
        """The seconds of audio that a session has consumed after a block, from its start."""
        end = min(self.taken[index] + (block + 1) * self.block_samples, self.given[index])
        return int(end - self.started[index]) / self.sample_rate


class Listeners:
    """One call of the listener for each session and block; a `gate` before it blanks scores."""

    def __init__(self, listener: Listener, capacity: int, gate: Gate | None = None) -> None:
        self.listener, self.gate = listener, gate
        # the errors of rows whose listener raised; they have no events until they are reset
        self.failed: dict[int, Exception] = {}
        self._own = [listener] * capacity
        self._states = [listener.init() for _ in range(capacity)]

    def step(self, rows: Rows, scored: Scored, clock: Clock) -> Found:
        """The events in the next blocks of the sessions in `rows`."""
        found: Found = []
        scores, valid = scored.scores, scored.valid
        for index, row in enumerate(rows.tolist()):
            if row in self.failed:
                continue
            try:
                for block in range(valid.shape[1]):
                    new = scores[index, block][valid[index, block]]
                    if self.gate:
                        new = self.gate.feed(row, new)
                    if len(new):
                        events = self._step(row, new, clock.decided_s(index, block))
                        found += [(index, event) for event in events]
            # the other sessions go on
            except Exception as error:
                self.failed[row] = error
        return found

    def finish(self, row: int, decided_s: float) -> list[Event]:
        """The events at the end of a session."""
        if row in self.failed:
            return []
        try:
            rest = self.gate.finish(row) if self.gate else None
            events = [] if rest is None or not len(rest) else self._step(row, rest, decided_s)
            return events + self._own[row].finish(self._states[row], decided_s)
        except Exception as error:
            self.failed[row] = error
            return []

    def reset(self, row: int, own: Listener | None = None) -> None:
        """Starts a row anew, with a listener of its `own` if one is given."""
        self._own[row] = own or self.listener
        self._states[row] = self._own[row].init()
        self.failed.pop(row, None)
        if self.gate:
            self.gate.reset(row)

    @property
    def states(self) -> list[dict[str, Any]]:
        """The state of each row as plain data and arrays."""
        return [asdict(state) for state in self._states]

    @states.setter
    def states(self, plain: list[dict[str, Any]]) -> None:
        self._states = [own.restore(state) for own, state in zip(self._own, plain, strict=True)]
        self.failed.clear()

    def _step(self, row: int, scores: NDArray[np.float32], decided_s: float) -> list[Event]:
        self._states[row], events = self._own[row].step(self._states[row], scores, decided_s)
        return events


class SpeechFrames(ctypes.Structure):
    """The arguments of `speech_edges` in plans/vad.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("thresholds", "lengths", "states", "edges")),
        *((name, ctypes.c_void_p) for name in ("y", "valid", "rows")),
        *((name, ctypes.c_int64) for name in ("sessions", "frames")),
    )


class NativeSpeechListeners:
    """`Listeners` for starts and ends of speech, with one native call for all sessions.

    The rule in Python takes a microsecond for each frame of each session, a fifth of its net.
    """

    def __init__(self, listener: SpeechListener, capacity: int, library: ctypes.CDLL) -> None:
        self.listener = listener
        # as for `Listeners`, but this rule never raises
        self.failed: dict[int, Exception] = {}
        self._own = [listener] * capacity
        self._thresholds = np.zeros((capacity, 2))
        self._lengths = np.zeros((capacity, 6), np.int64)
        self._states = np.zeros((capacity, len(fields(vad.State))), np.int64)
        for row in range(capacity):
            self.reset(row)
        self._edges = library.speech_edges
        kept = self._thresholds, self._lengths, self._states
        self._kept = tuple(x.ctypes.data for x in kept)
        # the arguments for the latest scores with each number of blocks
        self._pointed: dict[int, tuple[Rows, Scored, int, SpeechFrames]] = {}
        self._found = np.empty((0, 4), np.int64)

    def step(self, rows: Rows, scored: Scored, clock: Clock) -> Found:
        """The events in the next blocks of the sessions in `rows`."""
        # addresses take longer than the rule, and a stream has the same arrays every time
        blocks = scored.valid.shape[1]
        pointed = self._pointed.get(blocks)
        if pointed is None or scored is not pointed[1] or rows is not pointed[0]:
            pointed = self._pointed[blocks] = self._point_at(rows, scored)
        count = self._edges(pointed[2])
        if not count:
            return []
        frames_each, found = scored.valid.shape[2], []
        for index, frame, at, starts in self._found[:count].tolist():
            decided_s = clock.decided_s(index, frame // frames_each)
            edge = vad.Edge(at, starts=bool(starts))
            # the time of an edge does not depend on the rule
            found.append((index, self.listener.event(edge, decided_s)))
        return found

    def finish(self, row: int, decided_s: float) -> list[Event]:
        """The events at the end of a session."""
        return self._own[row].finish(self._state(row), decided_s)

    def reset(self, row: int, own: SpeechListener | None = None) -> None:
        """Starts a row anew, with a listener of its `own` if one is given."""
        self._own[row] = own or self.listener
        rule = self._own[row].rule
        self._thresholds[row] = rule.onset, rule.offset
        self._lengths[row] = (
            *(rule.shortest, rule.gap, rule.before, rule.after, rule.longest),
            vad.LEVELS,
        )
        self._states[row] = astuple(self._own[row].init())

    @property
    def states(self) -> list[dict[str, Any]]:
        """The state of each row as plain data."""
        return [asdict(self._state(row)) for row in range(len(self._states))]

    @states.setter
    def states(self, plain: list[dict[str, Any]]) -> None:
        # all are checked first, since one may be invalid
        self._states[:] = [
            astuple(own.restore(state)) for own, state in zip(self._own, plain, strict=True)
        ]

    def _state(self, row: int) -> vad.State:
        frames, began, ended, speaking, *split = self._states[row].tolist()
        return vad.State(frames, began, ended, bool(speaking), *split)

    def _point_at(self, rows: Rows, scored: Scored) -> tuple[Rows, Scored, int, SpeechFrames]:
        """The arguments for arrays in C order, with their address; makes room for their edges."""
        sessions, blocks, frames_each = scored.valid.shape
        most = EDGES_PER_FRAME * sessions * blocks * frames_each
        if most > len(self._found):
            self._found = np.empty((most, 4), np.int64)
            self._pointed.clear()
        to = SpeechFrames(*self._kept, self._found.ctypes.data)
        to.y, to.valid = scored.scores.ctypes.data, scored.valid.ctypes.data
        to.rows, to.sessions, to.frames = rows.ctypes.data, sessions, blocks * frames_each
        return rows, scored, ctypes.addressof(to), to


RowListeners = Listeners | NativeSpeechListeners


def row_listeners(
    listener: Listener,
    capacity: int,
    classes: int,
    library: ctypes.CDLL | None,
    gate: Gate | None = None,
) -> RowListeners:
    """The listeners of `capacity` sessions; `library` if a native engine computes the scores."""
    # by exact type, since a subclass may have another rule
    if type(listener) is SpeechListener and classes == 2 and library is not None:
        return NativeSpeechListeners(listener, capacity, library)
    return Listeners(listener, capacity, gate)
