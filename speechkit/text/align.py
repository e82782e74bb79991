"""The times of each label, character and word of a spoken text, from its best CTC path."""

import math
from collections.abc import Sequence
from itertools import groupby, pairwise

import numpy as np
from numpy.typing import NDArray

from speechkit.errors import SpeechkitError
from speechkit.events import Word
from speechkit.text.confidence import Confidence, calibrated
from speechkit.units import rounded_s

Scores = NDArray[np.float32]
"""CTC log-probabilities `[T, V + 1]`, the blank last."""
Ids = Sequence[int] | NDArray[np.int64]

WIDTH = 2048
"""States looked at in each frame, two for a label: a minute of speech has about as many."""
EARLY_S = 0.2
"""How long before its first label a word begins, unless the word before still lasts: CTC emits a
label late, once it is certain. Measured at pauses of read speech (docs/transcribing.md)."""


def align(log_probs: Scores, ids: Ids) -> list[tuple[int, int]]:
    """The first and the last frame of each label on the best path that spells `ids`.

    Viterbi over blank, id, blank, id, …, blank: a label may stay, follow its neighbour, or skip
    the blank between two different labels. Only the `WIDTH` states around the best one so far are
    searched. Shape: log_probs `[T, V + 1]` with the blank last, ids `[S]`. Raises SpeechkitError
    where the text does not fit into the frames. Source: Graves et al., ICML 2006.
    """
    if not len(ids):
        return []
    labels = np.asarray(ids)
    shortest = len(labels) + int((labels[1:] == labels[:-1]).sum())
    scores = np.asarray(log_probs, np.float64)
    width = WIDTH
    while shortest <= len(scores):
        path = _best_path(scores, labels, width)
        if path is not None:
            return _spans(path, len(labels))
        if width > 2 * len(labels):
            break
        width *= 8
    raise SpeechkitError(
        f"{len(ids)} labels do not fit into {len(log_probs)} frames; check the text"
    )


def _best_path(
    scores: NDArray[np.float64], labels: NDArray[np.int64], width: int
) -> NDArray[np.int64] | None:
    """The state of each frame `[T]`, odd ones labels; None where no path in the window ends."""
    frames, blank = len(scores), scores.shape[1] - 1
    states = np.full(2 * len(labels) + 1, blank)
    states[1::2] = labels
    count = len(states)
    width = min(width, count)
    skip = np.full(count, -np.inf)
    skip[3::2][labels[1:] != labels[:-1]] = 0
    # two states more in front, so that all have a neighbour and one beyond
    best = np.full(count + 2, -np.inf)
    best[2:4] = scores[0, states[:2]]
    came_from = np.zeros((frames, width), np.int8)
    starts = np.zeros(frames, np.int64)
    low = 0
    for frame in range(1, frames):
        top = low + int(best[low + 2 : low + 2 + width].argmax())
        # a path moves two states in a frame at most, and must still reach the end of the text
        needed = count - 2 * (frames - frame)
        new = min(max(low, max(top, needed) - width // 2), count - width)
        best[low + 2 : new + 2] = -np.inf
        low, high = new, new + width
        stay, one = best[low + 2 : high + 2], best[low + 1 : high + 1]
        two = best[low:high] + skip[low:high]
        moved = np.maximum(stay, one)
        skips = two > moved
        came_from[frame] = np.where(skips, 2, one > stay)
        best[low + 2 : high + 2] = np.where(skips, two, moved) + scores[frame, states[low:high]]
        starts[frame] = low
    state = count - 1 - int(best[-1] < best[-2])
    if best[state + 2] == -np.inf:
        return None
    path = np.empty(frames, np.int64)
    for frame in range(frames - 1, -1, -1):
        path[frame] = state
        # a Python number, since with numpy 2 the sum would be of 8 bits
        state -= int(came_from[frame, state - starts[frame]])
    return path


def _spans(path: NDArray[np.int64], count: int) -> list[tuple[int, int]]:
    labels = 2 * np.arange(count) + 1
    first, after = np.searchsorted(path, labels), np.searchsorted(path, labels, side="right")
    return list(zip(first.tolist(), (after - 1).tolist(), strict=True))


def words_of(
    log_probs: Scores,
    ids: Ids,
    labels: Sequence[str],
    frame_s: float,
    *,
    begin_s: float = 0.0,
    end_s: float = math.inf,
    confidence: Confidence = (1.0, 0.0),
) -> tuple[Word, ...]:
    """The words of a text, by `words_from_characters` and `characters_of`."""
    characters = characters_of(log_probs, ids, labels, frame_s, begin_s=begin_s, end_s=end_s)
    return words_from_characters(characters, confidence)


def words_from_characters(
    characters: Sequence[Sequence[Word]], confidence: Confidence = (1.0, 0.0)
) -> tuple[Word, ...]:
    """Joins characters into words; a word's score is the `calibrated` product of theirs."""
    return tuple(
        Word(
            "".join(c.text for c in word),
            word[0].start_s,
            word[-1].end_s,
            calibrated(math.prod(c.score for c in word), confidence),
        )
        for word in characters
    )


def mean_score(words: Sequence[Word]) -> float:
    """The mean score of one or more words."""
    return sum(word.score for word in words) / len(words)


def characters_of(
    log_probs: Scores,
    ids: Ids,
    labels: Sequence[str],
    frame_s: float,
    *,
    begin_s: float = 0.0,
    end_s: float = math.inf,
) -> tuple[tuple[Word, ...], ...]:
    """The characters of each word, where spaces separate words; the first frame is at `begin_s`.

    A word begins `EARLY_S` before its first label, but not before the end of the previous word. It
    ends with its last label. A character lasts until the next one. All times lie from `begin_s` to
    `end_s`. A score is the label's highest probability on its frames. Shapes as in `align`.
    """
    rows = zip(map(int, ids), align(log_probs, ids), strict=True)
    spoken = [(i, first, last) for i, (first, last) in rows]
    words, spoken_until_s = [], rounded_s(begin_s)
    for is_space, group in groupby(spoken, lambda row: labels[row[0]] == " "):
        if is_space:
            continue
        part = list(group)
        starts_s = [rounded_s(begin_s + first * frame_s) for _, first, _ in part]
        starts_s[0] = max(spoken_until_s, rounded_s(starts_s[0] - EARLY_S))
        spoken_until_s = rounded_s(begin_s + (part[-1][2] + 1) * frame_s)
        edges_s = [min(at_s, end_s) for at_s in (*starts_s, spoken_until_s)]
        scores = [math.exp(log_probs[first : last + 1, i].max()) for i, first, last in part]
        words.append(
            tuple(
                Word(labels[i], start_s, until_s, score)
                for (i, _, _), (start_s, until_s), score in zip(
                    part, pairwise(edges_s), scores, strict=True
                )
            )
        )
    return tuple(words)
