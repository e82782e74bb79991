"""From speech probabilities to stretches of speech: pure functions, the same whole or in pieces."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from speechkit.config import Config
from speechkit.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class PostProcessing(Config):
    """How probabilities become stretches of speech; stored with the model.

    A stretch begins where the probability reaches `onset` and ends where it falls below `offset`.
    Stretches shorter than `min_speech_ms` are dropped, then gaps shorter than `min_silence_ms` are
    closed, then each end moves outwards by its pad, and stretches that meet are joined. Each of
    them makes a live decision later: a start by `min_speech_ms`, an end by `min_silence_ms`.
    Source: NeMo `vad_utils`, binarisation and filtering.
    """

    onset: float = 0.5
    offset: float = 0.35
    min_speech_ms: float = 40
    min_silence_ms: float = 200
    pad_onset_ms: float = 0
    pad_offset_ms: float = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.offset <= self.onset <= 1:
            raise ConfigError(
                f"onset={self.onset:g}, offset={self.offset:g}: give 0 <= offset <= onset <= 1"
            )
        for name in ("min_speech_ms", "min_silence_ms", "pad_onset_ms", "pad_offset_ms"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}={getattr(self, name):g}: give milliseconds from 0 up")

    def rule(self, frame_s: float) -> "Rule":
        """The same in frames of `frame_s` seconds."""

        def frames(ms: float) -> int:
            return round(ms / 1000 / frame_s)

        pads = frames(self.pad_onset_ms), frames(self.pad_offset_ms)
        return Rule(
            onset=self.onset,
            offset=self.offset,
            shortest=max(1, frames(self.min_speech_ms)),
            # stretches whose pads meet are one
            gap=max(1, frames(self.min_silence_ms), sum(pads)),
            before=pads[0],
            after=pads[1],
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


@dataclass(frozen=True)
class Listening:
    """What the rule remembers of the frames so far; −1 stands for none.

    `began` is where the probability last reached the onset, `ended` where the last stretch that
    counts fell below the offset, and `speaking` whether a start was said and no end yet.
    """

    frames: int = 0
    began: int = -1
    ended: int = -1
    speaking: bool = False


@dataclass(frozen=True)
class Edge:
    """A start or an end of speech at the beginning of a frame."""

    frame: int
    starts: bool


def advance(rule: Rule, state: Listening, probability: float) -> tuple[Listening, Edge | None]:
    """The state after one more frame, and the edge it decides, if any."""
    now, began, ended = state.frames, state.began, state.ended
    if began < 0 and probability >= rule.onset:
        began = now
    elif began >= 0 and probability < rule.offset:
        if now - began >= rule.shortest:
            ended = now
        began = -1
    speaking, edge = state.speaking, None
    if began >= 0 and now + 1 - began >= rule.shortest:
        ended = -1
        if not speaking:
            speaking, edge = True, Edge(max(0, began - rule.before), starts=True)
    elif began < 0 and speaking and now + 1 - ended >= rule.gap:
        speaking, edge = False, Edge(ended + rule.after, starts=False)
    return Listening(now + 1, began, ended, speaking), edge


def finish(rule: Rule, state: Listening) -> Edge | None:
    """The end of a stretch that the last frame left open."""
    if not state.speaking:
        return None
    # a stretch too short to count leaves the end before it
    ended = state.ended if state.ended >= 0 else state.frames
    return Edge(min(ended + rule.after, state.frames), starts=False)


def segments(
    probabilities: Tensor | Iterable[float], frame_s: float, post: PostProcessing
) -> list[tuple[float, float]]:
    """The (start_s, end_s) of speech in one probability per frame, `[T]`."""
    rule, state = post.rule(frame_s), Listening()
    edges: list[Edge] = []
    values = probabilities.tolist() if isinstance(probabilities, Tensor) else probabilities
    for probability in values:
        state, edge = advance(rule, state, probability)
        edges += [edge] if edge else []
    last = finish(rule, state)
    times_s = [edge.frame * frame_s for edge in (*edges, *([last] if last else []))]
    return list(zip(times_s[::2], times_s[1::2], strict=True))


def overlap_smooth(
    probabilities: Tensor,
    window_frames: int,
    hop_frames: int,
    how: Literal["median", "mean"] = "median",
) -> Tensor:
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
    last = torch.arange(frames) // hop_frames
    windows = last[:, None] - torch.arange(-(-window_frames // hop_frames))
    covers = torch.arange(frames)[:, None] < windows * hop_frames + window_frames
    inside = covers & (windows >= 0) & (windows < len(probabilities))
    over = probabilities[windows.clamp(0, len(probabilities) - 1)].masked_fill(~inside, torch.nan)
    return over.nanquantile(0.5, dim=1) if how == "median" else over.nanmean(dim=1)
