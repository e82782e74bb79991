"""A session: it takes samples as they arrive and returns events, equal for all chunk sizes."""

from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from speechkit_runtime.errors import RuntimeFailure, answers
from speechkit_runtime.rules import Event, Keywords, Metadata, Speech, Text


class Stream:
    """One session; `feed` any number of samples at a time, then `finish`.

    `latency_s` is the audio needed after the beginning of a frame until its score is returned.
    A stream belongs to one thread; the model may be shared.
    """

    def __init__(self, session: onnxruntime.InferenceSession, metadata: Metadata) -> None:
        self._session, self._metadata = session, metadata
        self.sample_rate: int = metadata["sample_rate"]
        self.latency_s: float = metadata["latency_s"]
        self._rule = rule_of(metadata)
        self._states = {state["name"]: start_of(state) for state in metadata["states"]}
        self._pending = np.zeros(metadata["block"], np.float32)
        self._filled, self._consumed, self._finished = 0, 0, False

    @answers
    def feed(self, samples: NDArray[np.float32]) -> list[Event]:
        """The events after the next samples `[N]`: float32 in [-1, 1] or int16."""
        self._check_open()
        x = samples / np.float32(32768) if samples.dtype == np.int16 else samples
        events: list[Event] = []
        while len(x):
            part, x = np.split(x, [len(self._pending) - self._filled])
            self._pending[self._filled : self._filled + len(part)] = np.clip(part, -1, 1)
            self._filled += len(part)
            if self._filled == len(self._pending):
                self._consumed += self._filled
                events += self._run(self._filled)
                self._filled = 0
        return events

    @answers
    def finish(self) -> list[Event]:
        """The remaining events; afterwards the stream takes no more samples."""
        self._check_open()
        self._finished = True
        self._consumed += self._filled
        self._pending[self._filled :] = 0
        events: list[Event] = []
        for _ in range(-(-(self._filled + self._metadata["flush"]) // len(self._pending))):
            events += self._run(self._filled)
            self._filled = 0
            self._pending[:] = 0
        return events + self._rule.finish(self._consumed / self.sample_rate)

    def _run(self, real: int) -> list[Event]:
        """The events of the pending block, whose first `real` samples are valid."""
        valid = np.arange(len(self._pending)) < real
        given = {"audio": self._pending[None], "valid": valid[None], **self._states}
        scores, kept, *states = self._session.run(None, given)
        self._states = dict(zip(self._states, states, strict=True))
        return self._rule.step(scores[0][kept[0]], self._consumed / self.sample_rate)

    def _check_open(self) -> None:
        if self._finished:
            raise RuntimeFailure("this stream is finished; make a new one")


def rule_of(metadata: Metadata) -> Speech | Keywords | Text:
    """The rule that turns the model's scores into events."""
    if "postprocess" in metadata:
        # a window's score is that of its middle
        lag_s = metadata["window_s"] / 2 if metadata["window_s"] else 0.0
        return Speech(metadata, metadata["frame_s"], lag_s)
    return Keywords(metadata) if "spotting" in metadata else Text(metadata)


def start_of(state: dict[str, Any]) -> NDArray[np.float32]:
    """A state before the first block."""
    dtype = bool if state["bool"] else np.float32
    zeros = np.zeros(state["shape"], dtype)
    return np.array(state["start"], dtype).reshape(zeros.shape) if "start" in state else zeros
