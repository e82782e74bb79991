"""Frame labels for voice activity: where a clean recording is speech.

The rule is `speech_segments`, applied to the clean recording before any augmentation. Reverberation
after the direct sound, noise, music and non-speech voices are not speech.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

RATE = 16000
HOP_S, WINDOW_S = 0.01, 0.025
SHORTEST_PAUSE_S, SHORTEST_SPEECH_S = 0.2, 0.06
SMALLEST_RANGE_DB = 15.0

Sound = NDArray[np.floating[Any]]
Segments = list[tuple[float, float]]


@dataclass(frozen=True)
class Piece:
    """A few seconds of clean speech `[N]`, its segments in seconds, and its source."""

    audio: Sound
    segments: Segments
    corpus: str
    speaker: str


def levels_db(x: Sound) -> Sound:
    """RMS over 25 ms around every 10 ms, in dB of full scale. Shape: `[N]` → `[N // 160]`."""
    hop, window = round(HOP_S * RATE), round(WINDOW_S * RATE)
    energy = np.cumsum(np.pad(np.square(x, dtype=np.float64), (window // 2 + 1, window)))
    starts = np.arange(len(x) // hop) * hop
    level: Sound = 10 * np.log10((energy[starts + window] - energy[starts]) / window + 1e-10)
    return level


def speech_segments(x: Sound) -> Segments | None:
    """The speech in a clean recording `[N]` as `(start_s, end_s)`; None if it is not clean.

    Speech is above a threshold: the floor (15th percentile of the levels) plus 0.3 of the range up
    to the peak (95th percentile). The threshold is at least 6 dB above the floor, and from 25 to 30
    dB below the peak. Pauses below 0.2 s become speech, then bursts below 0.06 s are removed. With
    a range below 15 dB, or speech in less than 5 % of the time, the energy is no reliable measure.
    """
    level = levels_db(x)
    if len(level) < 10:
        return None
    floor, peak = np.percentile(level, (15, 95))
    if peak - floor < SMALLEST_RANGE_DB:
        return None
    threshold = max(min(floor + 0.3 * (peak - floor), peak - 25), floor + 6, peak - 30)
    found = stretches(level > threshold)
    share = sum(end - start for start, end in found) / (len(level) * HOP_S)
    return found if share >= 0.05 else None


def stretches(speech: NDArray[np.bool_]) -> Segments:
    """The segments of frames of 10 ms that are speech: short pauses joined, then bursts removed."""
    edges = np.flatnonzero(np.diff(np.pad(speech.astype(np.int8), 1)))
    found: Segments = []
    for start, end in edges.reshape(-1, 2) * HOP_S:
        if found and start - found[-1][1] < SHORTEST_PAUSE_S:
            found[-1] = (found[-1][0], float(end))
        else:
            found.append((float(start), float(end)))
    return [(start, end) for start, end in found if end - start >= SHORTEST_SPEECH_S]


def pieces(
    x: Sound,
    speech: Segments,
    corpus: str,
    speaker: str,
    most_s: float = 5.0,
    margin_s: float = 0.3,
) -> list[Piece]:
    """A recording with known speech, cut at pauses into pieces of about `most_s`."""
    groups: list[Segments] = []
    for segment in speech:
        if groups and segment[1] - groups[-1][0][0] <= most_s:
            groups[-1].append(segment)
        else:
            groups.append([segment])
    if not groups:
        return []
    cuts = [(a[-1][1] + b[0][0]) / 2 for a, b in pairwise(groups)]
    found = []
    for group, low, high in zip(groups, [0.0, *cuts], [*cuts, len(x) / RATE], strict=True):
        start_s = max(low, group[0][0] - margin_s)
        end_s = min(high, group[-1][1] + margin_s)
        audio = x[round(start_s * RATE) : round(end_s * RATE)].astype(np.float32)
        segments = [(a - start_s, b - start_s) for a, b in group]
        found.append(Piece(audio, segments, corpus, speaker))
    return found


def merged(segments: Segments) -> Segments:
    """Overlapping segments joined, sorted."""
    found: Segments = []
    for start, end in sorted(segments):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def spoken(audio: Sound, segments: Segments) -> Sound:
    """The samples that are labelled speech, `[N']`."""
    return np.concatenate([audio[round(a * RATE) : round(b * RATE)] for a, b in segments])
