"""Endpointing: a pure rule over frames that finds the end of an utterance in a stream."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from speechkit.config import Config, check_range
from speechkit.errors import ConfigError

End = Literal["nothing", "pause", "longest"]
"""Why a segment ends: it had no speech, a pause followed speech, or it reached `longest_s`."""


@dataclass(frozen=True, kw_only=True)
class Endpointing(Config):
    """When a text is final.

    A segment ends after `silence_after_s` of silence that follows speech, after `silence_before_s`
    of silence without any speech before it, and at `longest_s` in any case. A frame is silent if
    its best label is the blank or a space. A segment whose words have a mean score below
    `least_score` has no text.
    Source: Kaldi `online2/online-endpoint.h`; sherpa-onnx, whose three rules and times these are.
    """

    silence_before_s: float = 2.4
    silence_after_s: float = 1.2
    longest_s: float = 20.0
    least_score: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("silence_before_s", "silence_after_s", "longest_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}={getattr(self, name):g}: give seconds above 0")
        check_range("least_score", self.least_score, 0, 1)

    def rule(self, frame_s: float) -> "Rule":
        """The same in frames of `frame_s` seconds."""

        def frames(seconds: float) -> int:
            return max(1, round(seconds / frame_s))

        return Rule(
            before=frames(self.silence_before_s),
            after=frames(self.silence_after_s),
            longest=frames(self.longest_s),
        )


@dataclass(frozen=True)
class Rule:
    """An `Endpointing` in frames."""

    before: int
    after: int
    longest: int


@dataclass(frozen=True)
class Segment:
    """The rule's state: frames of the segment, silent ones at its end, whether it has speech."""

    frames: int = 0
    silent: int = 0
    spoken: bool = False


def advance(rule: Rule, state: Segment, silent: bool) -> tuple[Segment, End | None]:
    """The state after one more frame, and why the segment ends there (None if it does not)."""
    frames, spoken = state.frames + 1, state.spoken or not silent
    trailing = state.silent + 1 if silent else 0
    end: End | None = None
    if trailing >= (rule.after if spoken else rule.before):
        end = "pause" if spoken else "nothing"
    elif frames >= rule.longest:
        end = "longest"
    return (Segment(), end) if end else (Segment(frames, trailing, spoken), None)


def segments(rule: Rule, silent: Iterable[bool]) -> Iterator[tuple[int, int]]:
    """The first frame of each segment that has speech, and the frame after its last."""
    state, start, frame = Segment(), 0, 0
    for frame, is_silent in enumerate(silent, start=1):
        before = state
        state, end = advance(rule, state, is_silent)
        if end:
            if before.spoken or not is_silent:
                yield start, frame
            start = frame
    if state.spoken:
        yield start, frame
