"""Runs the listeners of a batch of sessions: from scores to events."""

import ctypes
from collections.abc import Callable
from dataclasses import asdict, astuple, fields
from typing import Any

import torch

from speechkit.events import Event
from speechkit.libraries import load
from speechkit.plans.engine import SOURCE
from speechkit.rules import vad
from speechkit.streaming.engine import Scored
from speechkit.streaming.listeners import SpeechListener
from speechkit.tasks import Listener

EDGES_PER_FRAME = 3
"""The most edges that `speech_edges` writes for a frame: one, and two for a split."""
DecidedAt = Callable[[int, int], float]
"""(session, block) → the time at which that block was decided, in seconds."""


class Listeners:
    """The listeners of `size` sessions, one call for each session and block."""

    def __init__(self, listener: Listener, size: int) -> None:
        self.listener = listener
        self._states = [listener.init() for _ in range(size)]

    def step(self, scored: Scored, decided_s: DecidedAt) -> list[list[Event]]:
        """The events of each session in the next blocks."""
        events: list[list[Event]] = [[] for _ in self._states]
        for row, found in enumerate(events):
            for block, (scores, valid) in enumerate(zip(*scored.row(row), strict=True)):
                state, new = self.listener.step(
                    self._states[row], scores[valid].numpy(), decided_s(row, block)
                )
                self._states[row] = state
                found += new
        return events

    def finish(self, row: int, decided_s: float) -> list[Event]:
        """The events at the end of a session."""
        return self.listener.finish(self._states[row], decided_s)

    def reset(self, row: int) -> None:
        """Starts a row anew."""
        self._states[row] = self.listener.init()

    @property
    def states(self) -> list[dict[str, Any]]:
        """The state of each session as plain data and arrays."""
        return [asdict(state) for state in self._states]

    @states.setter
    def states(self, plain: list[dict[str, Any]]) -> None:
        self._states = [self.listener.restore(state) for state in plain]


class NativeSpeechListeners:
    """The same for starts and ends of speech between two classes, in one native call for all."""

    def __init__(self, listener: SpeechListener, size: int, library: ctypes.CDLL) -> None:
        self.listener, self.size = listener, size
        rule = listener.rule
        self._thresholds = torch.tensor([rule.onset, rule.offset], dtype=torch.float64)
        lengths = rule.shortest, rule.gap, rule.before, rule.after, rule.longest, vad.LEVELS
        self._lengths = torch.tensor(lengths)
        self._states = torch.zeros(size, len(fields(vad.State)), dtype=torch.int64)
        for row in range(size):
            self.reset(row)
        self._edges = library.speech_edges
        pointer, integer = ctypes.c_void_p, ctypes.c_int64
        self._edges.argtypes = *[pointer] * 5, integer, integer, pointer
        self._edges.restype = integer
        kept = self._thresholds, self._lengths, self._states
        self._rule = tuple(x.data_ptr() for x in kept)
        self._found = torch.empty(0, 4, dtype=torch.int64)

    def step(self, scored: Scored, decided_s: DecidedAt) -> list[list[Event]]:
        """The events of each session in the next blocks."""
        events: list[list[Event]] = [[] for _ in range(self.size)]
        _, blocks, frames_each, _ = scored.scores.shape
        frames = blocks * frames_each
        if EDGES_PER_FRAME * self.size * frames > self._found.shape[0]:
            self._found = torch.empty(EDGES_PER_FRAME * self.size * frames, 4, dtype=torch.int64)
        count = self._edges(
            *self._rule,
            *(scored.scores.data_ptr(), scored.valid.data_ptr()),
            *(self.size, frames, self._found.data_ptr()),
        )
        for row, frame, at, starts in self._found[:count].tolist() if count else ():
            edge = vad.Edge(at, starts=bool(starts))
            decided = decided_s(row, frame // frames_each)
            events[row].append(self.listener.event(edge, decided))
        return events

    def finish(self, row: int, decided_s: float) -> list[Event]:
        """The events at the end of a session."""
        return self.listener.finish(self._listening(row), decided_s)

    def reset(self, row: int) -> None:
        """Starts a row anew."""
        self._remember(row, self.listener.init())

    @property
    def states(self) -> list[dict[str, Any]]:
        """The state of each session as plain data."""
        return [asdict(self._listening(row)) for row in range(self.size)]

    @states.setter
    def states(self, plain: list[dict[str, Any]]) -> None:
        # all are checked first, since one may be invalid
        for row, state in enumerate([self.listener.restore(state) for state in plain]):
            self._remember(row, state)

    def _listening(self, row: int) -> vad.State:
        frames, began, ended, speaking, *split = self._states[row].tolist()
        return vad.State(frames, began, ended, bool(speaking), *split)

    def _remember(self, row: int, state: vad.State) -> None:
        self._states[row] = torch.tensor(astuple(state))


def batch_listeners(
    listener: Listener, size: int, native: bool, classes: int
) -> Listeners | NativeSpeechListeners:
    """The listeners of `size` sessions; `native` if a native engine computes the scores."""
    library = load(SOURCE) if native and classes == 2 else None
    # by exact type, since a subclass may have another rule
    if type(listener) is SpeechListener and isinstance(library, ctypes.CDLL):
        return NativeSpeechListeners(listener, size, library)
    return Listeners(listener, size)
