"""A speech detector before a recogniser: text is returned only where it finds speech."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from speechkit.errors import StreamError
from speechkit.limits import MAX_NUMBER
from speechkit.plans.source import ModelSource
from speechkit.streaming.state import AGAIN, check_array, checked

if TYPE_CHECKING:
    # it imports the scheduler, which imports this module
    from speechkit.streaming.speech import DetectedSpeech

Detector = ModelSource | None
"""A plan or model that detects speech frame by frame, its folder or name; None for none."""
DETECTOR = "vad"
"""The bundled model that is the default detector for recognition."""
NEVER = -1000.0
"""The log-probability of a label outside speech: finite, with an exponential of 0."""
Floats = NDArray[np.float32]


class Gate:
    """Sets the CTC log-probabilities `[T, V + 1]` of sessions to the blank outside speech.

    The last `held` frames are delayed until the detector has decided on them. The scores of a frame
    arrive at least `lead_s` seconds after its middle.
    """

    def __init__(
        self, speech: "DetectedSpeech", capacity: int, classes: int, frame_s: float, lead_s: float
    ) -> None:
        self.speech, self._frame_s = speech, frame_s
        self.held = max(0, math.ceil(round((speech.late_s - lead_s) / frame_s, 6)))
        self._nothing = np.empty((0, classes), np.float32)
        self._held = [self._nothing] * capacity
        self._passed = [0] * capacity

    def feed(self, row: int, scores: Floats) -> Floats:
        """Takes the scores of a session's next valid frames; returns those that are decided."""
        waiting = np.concatenate([self._held[row], scores])
        count = max(0, len(waiting) - self.held)
        self._held[row] = waiting[count:]
        return self._blanked(row, waiting[:count])

    def finish(self, row: int) -> Floats:
        """The scores of a session's remaining frames, after the detector's end."""
        rest, self._held[row] = self._held[row], self._nothing
        return self._blanked(row, rest)

    def reset(self, row: int) -> None:
        """Starts a new session in a row."""
        self._held[row], self._passed[row] = self._nothing, 0

    @property
    def state(self) -> dict[str, Any]:
        """The state as plain data and arrays."""
        return {"speech": self.speech.state, "passed": self._passed, "held": self._held}

    @state.setter
    def state(self, stored: dict[str, Any]) -> None:
        values = checked(stored, {"speech": dict, "passed": list, "held": list})
        passed, held, capacity = values["passed"], values["held"], len(self._held)
        if not len(passed) == len(held) == capacity or not all(
            type(n) is int and 0 <= n <= MAX_NUMBER for n in passed
        ):
            raise StreamError(f"the state is damaged: its frame counts are invalid; {AGAIN}")
        for scores in held:
            frames = len(scores) if isinstance(scores, np.ndarray) and scores.ndim else 0
            like = np.empty((min(frames, self.held), *self._nothing.shape[1:]), np.float32)
            check_array("held", scores, like)
        self.speech.state = values["speech"]
        self._passed, self._held = passed, held

    def _blanked(self, row: int, scores: Floats) -> Floats:
        """Blanks the scores of a session's next frames outside speech."""
        frames = self._passed[row] + np.arange(len(scores))
        self._passed[row] += len(scores)
        return blanked(scores, self.speech.at(row, middles_s(frames, self._frame_s)))


def middles_s(frames: NDArray[np.int64], frame_s: float) -> NDArray[np.float64]:
    """The time of each frame's middle in seconds; edges of speech are never at the middle."""
    return (frames + 0.5) * frame_s


def blanked(log_probs: Floats, speech: NDArray[np.bool_]) -> Floats:
    """Log-probabilities `[T, V + 1]` with the blank certain where there is no `speech [T]`."""
    never = np.full(log_probs.shape[1:], NEVER, log_probs.dtype)
    never[-1] = 0
    return np.where(speech[:, None], log_probs, never)
