"""Events of a stream, and what makes them; all times are in seconds from the stream's first sample.

`at_s` is the time of the event in the audio, `decided_s` the audio consumed when it was returned.
"""

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Word:
    """A word, or a character of one, with its times and the model's score from 0 to 1."""

    text: str
    start_s: float
    end_s: float
    score: float


@dataclass(frozen=True)
class SpeechStart:
    """Speech begins.

    With `pre_roll_ms` of `sk.stream`, `samples [N]` are those from that long before `at_s` up to
    `decided_s`, mono float32 at the stream's rate.
    """

    at_s: float
    decided_s: float
    samples: "NDArray[np.float32] | None" = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class SpeechEnd:
    """Speech ends.

    With `keep_segments` of `sk.stream`, `samples [N]` are those of the segment, from the first
    sample of its `SpeechStart` to `at_s`.
    """

    at_s: float
    decided_s: float
    samples: "NDArray[np.float32] | None" = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Keyword:
    """A label of a classifier was detected, with this probability."""

    label: str
    score: float
    at_s: float
    decided_s: float


@dataclass(frozen=True)
class Partial:
    """The text since the last `Final`; its beginning `stable` does not change any more."""

    text: str
    stable: str
    at_s: float
    decided_s: float


@dataclass(frozen=True)
class Final:
    """The text of a segment that has ended, and its words."""

    text: str
    words: tuple[Word, ...]
    at_s: float
    decided_s: float


@dataclass(frozen=True)
class Gap:
    """Audio of `duration_s` was lost from `at_s` on and is replaced by silence."""

    duration_s: float
    at_s: float
    decided_s: float


Event = SpeechStart | SpeechEnd | Keyword | Partial | Final | Gap


class Listener(Protocol):
    """Turns the scores of one session into events.

    `state` is a dataclass of plain data and numpy arrays.
    """

    def init(self) -> Any:
        """The state before the first frame."""
        ...

    def step(
        self, state: Any, scores: "NDArray[np.float32]", decided_s: float
    ) -> tuple[Any, list[Event]]:
        """The state and the events after valid frames `scores [T, n]`."""
        ...

    def finish(self, state: Any, decided_s: float) -> list[Event]:
        """The events at the end."""
        ...

    def restore(self, values: dict[str, Any]) -> Any:
        """The state from its fields, as JSON stores them."""
        ...


NAMES = {
    SpeechStart: "speech_start",
    SpeechEnd: "speech_end",
    Keyword: "keyword",
    Partial: "partial",
    Final: "final",
    Gap: "gap",
}
"""The name of each event in JSON."""


def to_row(event: Event) -> dict[str, Any]:
    """The event as a JSON object without samples, its name under `event`."""
    row = {name: value for name, value in asdict(event).items() if name != "samples"}
    return {"event": NAMES[type(event)], **rounded(row)}


def rounded(value: Any) -> Any:
    """Numbers to a millionth, which is far below a sample."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, tuple) else value
