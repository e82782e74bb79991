"""From speech probabilities to segments of speech: pure functions over one frame after another."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from speechkit.config import Config
from speechkit.errors import ConfigError
from speechkit.limits import MAX_TIME_S
from speechkit.units import rounded_s

UNBOUNDED = 1 << 62
"""More frames than any segment has."""
LEVELS = 1000
"""The least probability is found in steps of a thousandth, where float32 and float64 agree. The
last step includes 1, to which float32 rounds values just below it."""


@dataclass(frozen=True, kw_only=True)
class PostProcessing(Config):
    """How probabilities become segments of speech; stored with the model.

    A segment begins where the probability reaches `onset` and ends where it falls below `offset`.
    Segments shorter than `min_speech_ms` are dropped, then gaps shorter than `min_silence_ms` are
    closed, then each end moves outwards by its pad, and segments that meet are joined. In a stream
    a start is known `min_speech_ms` later and an end `min_silence_ms` later.
    A segment that reaches `max_speech_s`, if that is set, is split in its second half, at the frame
    with the lowest probability of speech, the last one of equals.
    Source: NeMo `vad_utils`, binarisation and filtering.
    """

    onset: float = 0.5
    offset: float = 0.35
    min_speech_ms: float = 40
    min_silence_ms: float = 200
    pad_onset_ms: float = 0
    pad_offset_ms: float = 0
    max_speech_s: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.offset <= self.onset <= 1:
            raise ConfigError(
                f"onset={self.onset:g}, offset={self.offset:g}: give 0 <= offset <= onset <= 1"
            )
        for name in ("min_speech_ms", "min_silence_ms", "pad_onset_ms", "pad_offset_ms"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}={getattr(self, name):g}: give milliseconds from 0 up")
        # a segment is split in its second half, after its start was decided
        least_s = max(0.1, (self.min_speech_ms + self.pad_onset_ms) / 500)
        longest_s = self.max_speech_s
        if longest_s is not None and not least_s <= longest_s <= MAX_TIME_S:
            raise ConfigError(
                f"max_speech_s={longest_s:g}: give seconds from {least_s:g} to {MAX_TIME_S:g}, or "
                "null for no bound; with a smaller min_speech_ms or pad_onset_ms it may be shorter"
            )

    def rule(self, frame_s: float) -> "Rule":
        """The same in frames of `frame_s` seconds."""

        def frames(ms: float) -> int:
            return round(ms / 1000 / frame_s)

        pads = frames(self.pad_onset_ms), frames(self.pad_offset_ms)
        shortest, longest = max(1, frames(self.min_speech_ms)), UNBOUNDED
        if self.max_speech_s is not None:
            # a start is decided before its segment is split
            longest = max(int(self.max_speech_s / frame_s + 1e-6), pads[0] + shortest + 1)
        return Rule(
            onset=self.onset,
            offset=self.offset,
            shortest=shortest,
            # segments whose pads meet are joined
            gap=max(frames(self.min_silence_ms), sum(pads) + 1),
            before=pads[0],
            after=pads[1],
            longest=longest,
        )


@dataclass(frozen=True)
class Rule:
    """A `PostProcessing` in frames: a gap of less than `gap` is closed."""

    onset: float
    offset: float
    shortest: int
    gap: int
    before: int
    after: int
    longest: int

    @property
    def late(self) -> int:
        """How many frames must follow a frame before it is known to be speech or not, without the
        splits of `max_speech_s`."""
        # a run that begins at the end of a gap may turn out too short to count
        run = max(0, self.shortest - 2)
        return max(self.before + self.shortest - 1, self.gap - self.after - 1 + run)


@dataclass(frozen=True)
class State:
    """The rule's state after the frames so far; −1 stands for none.

    `began` is where the probability last reached the onset, `ended` where the last long enough
    segment fell below the offset, `speaking` whether a start was returned and no end yet, `edge`
    the frame of the last edge. `pause` is the frame where the current segment would be split, the
    least probable one so far, and `level` its probability in `LEVELS`.
    """

    frames: int = 0
    began: int = -1
    ended: int = -1
    speaking: bool = False
    edge: int = 0
    pause: int = -1
    level: int = 0


@dataclass(frozen=True)
class Edge:
    """A start or an end of speech at the beginning of a frame."""

    frame: int
    starts: bool


def advance(rule: Rule, state: State, probability: float) -> tuple[State, list[Edge]]:
    """The state after one more frame, and the edges it decides: two where a segment is split."""
    now, began, ended = state.frames, state.began, state.ended
    speaking, edge, pause, level = state.speaking, state.edge, state.pause, state.level
    if began < 0 and probability >= rule.onset:
        began = now
    elif began >= 0 and probability < rule.offset:
        if now - began >= rule.shortest:
            ended = now
        began = -1
    # the second half of a piece begins after the frame at which the piece before it was split, so
    # one frame is enough to remember
    if speaking and 2 * (now - edge) >= rule.longest:
        here = min(int(probability * LEVELS), LEVELS - 1)
        if pause < 0 or here <= level:
            pause, level = now, here
    edges: list[Edge] = []
    if began >= 0 and now + 1 - began >= rule.shortest:
        ended = -1
        if not speaking:
            speaking, edge, pause = True, max(edge, began - rule.before), -1
            edges.append(Edge(edge, starts=True))
    elif began < 0 and speaking and now + 1 - ended >= rule.gap:
        speaking, edge = False, ended + rule.after
        edges.append(Edge(edge, starts=False))
    if speaking and now + 1 - edge >= rule.longest:
        # within a pause the segment ends where it would if the pause went on
        speaking = ended < 0 or pause < ended
        edge = pause if speaking else min(pause, ended + rule.after)
        edges.append(Edge(edge, starts=False))
        if speaking:
            edges.append(Edge(edge, starts=True))
        pause = -1
    return State(now + 1, began, ended, speaking, edge, pause, level), edges


def finish(rule: Rule, state: State) -> Edge | None:
    """The end of a segment that is still open after the last frame, else None."""
    if not state.speaking:
        return None
    # a run too short to count does not move the end before it
    ended = state.ended if state.ended >= 0 else state.frames
    return Edge(min(ended + rule.after, state.frames), starts=False)


def segments(
    probabilities: Iterable[float],
    frame_s: float,
    post: PostProcessing,
    duration_s: float = math.inf,
) -> list[tuple[float, float]]:
    """The (start_s, end_s) of speech from one probability per frame `[T]`; times are cut at
    `duration_s`, since the last frame may reach beyond the sound."""
    rule, state = post.rule(frame_s), State()
    edges: list[Edge] = []
    for probability in probabilities:
        state, new = advance(rule, state, probability)
        edges += new
    last = finish(rule, state)
    edges += [last] if last else []
    times_s = [min(rounded_s(edge.frame * frame_s), duration_s) for edge in edges]
    return list(zip(times_s[::2], times_s[1::2], strict=True))


def overlap_smooth(
    probabilities: NDArray[Any],
    window_frames: int,
    hop_frames: int,
    how: Literal["median", "mean"] = "median",
) -> NDArray[Any]:
    """One probability per frame from those of windows that overlap.

    Window w covers frames w·hop_frames … w·hop_frames + window_frames − 1; a frame takes the median
    or mean of the windows over it. Shape: `[W]` → `[(W − 1) · hop_frames + window_frames]`.
    Source: Jia et al., arXiv:2010.13886; NeMo `vad_utils`, overlap smoothing.
    """
    if window_frames < hop_frames or hop_frames < 1:
        raise ConfigError(
            f"windows of {window_frames} frames every {hop_frames}: give 1 <= hop <= window"
        )
    frames = (len(probabilities) - 1) * hop_frames + window_frames
    last = np.arange(frames) // hop_frames
    windows = last[:, None] - np.arange(-(-window_frames // hop_frames))
    covers = np.arange(frames)[:, None] < windows * hop_frames + window_frames
    inside = covers & (windows >= 0) & (windows < len(probabilities))
    over = probabilities[windows.clip(0, len(probabilities) - 1)]
    middle = np.nanmedian if how == "median" else np.nanmean
    smooth: NDArray[Any] = middle(np.where(inside, over, np.nan), axis=1)
    return smooth
