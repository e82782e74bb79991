"""Labels transcribed speech: finds where its words are by forced alignment.

    python recipes/vad/alignment.py MODEL FOLDER

compares the rules of labels.py and of this file with labels made by hand (field/ in FOLDER has a
few), and with each other on transcribed recordings. MODEL is a recogniser of English. It also
transcribes the recordings with labels made by hand, which have no transcripts.
"""

import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from labels import HOP_S, RATE, Segments, Sound, speech_segments, stretches
from numpy.typing import NDArray
from sources import Recording, read, recordings

import speechkit as sk
from speechkit.data import AudioWarning
from speechkit.events import Word
from speechkit.infer import align_text
from speechkit.models import Model

BEYOND_S = 0.15
"""Sound at most this far outside a word is speech if it is loud."""
WITHIN_S = 0.1
"""Sound at least this far inside a word is speech at any level."""
COMPARED = 40
"""About how many recordings of a source the rules are compared on."""
LEAST_SCORE = 0.3
"""If the geometric mean of the characters' scores is lower, the text may be wrong."""


def aligned_segments(model: Model, x: Sound, text: str) -> Segments | None:
    """The speech of a recording `[N]` with a known text; None if the text does not fit well."""
    words = align_text(model, x.astype(np.float32), text, RATE).words
    characters = sum(len(word.text) for word in words)
    scores = np.array([word.score for word in words])
    if not characters or np.log(scores + 1e-30).sum() / characters < np.log(LEAST_SCORE):
        return None
    return word_segments(spans_of(words), x)


def spans_of(words: Iterable[Word]) -> Segments:
    return [(word.start_s, word.end_s) for word in words]


def word_segments(words: Segments, x: Sound) -> Segments:
    """Where words are in the recording `[N]`, with their edges by its level.

    The given times show which sounds are words, the level where they begin and end. Speech is sound
    above the threshold of `speech_segments` in a word or at most `BEYOND_S` outside it, and all
    sound at least `WITHIN_S` inside a word. Then pauses are closed and bursts removed as there.
    """
    near, core = within(words, x, BEYOND_S), within(words, x, -WITHIN_S)
    by_level = speech_segments(x)
    loud = np.ones_like(near) if by_level is None else inside(by_level, len(near))
    return stretches((near & loud) | core)


def within(words: Segments, x: Sound, beyond_s: float) -> NDArray[np.bool_]:
    """True for each 10 ms in a word made longer by `beyond_s` at both ends. Shape: `[N // 160]`."""
    spans = [(start_s - beyond_s, end_s + beyond_s) for start_s, end_s in words]
    return inside(spans, len(x) // round(HOP_S * RATE))


def inside(segments: Segments, frames: int) -> NDArray[np.bool_]:
    """True for each 10 ms that begins in a segment."""
    at_s = np.arange(frames) * HOP_S + 1e-6
    found = np.zeros(frames, bool)
    for start_s, end_s in segments:
        found |= (start_s <= at_s) & (at_s < end_s)
    return found


def by_hand(model: Model, folder: Path, source: str) -> dict[str, list[tuple[Segments, Segments]]]:
    """For each rule its labels of the recordings of a source, each with those made by hand."""
    found: dict[str, list[tuple[Segments, Segments]]] = {}
    for recording in recordings(folder):
        if recording.source != source or recording.segments is None:
            continue
        x = read(recording)
        words = spans_of(sk.transcribe(model, x.astype(np.float32), RATE, vad=None).words)
        spans = inside(words, len(x) // 160)
        rules = {
            "level": speech_segments(x) or [],
            "words": stretches(spans),
            "words, edges by level": word_segments(words, x),
        }
        for name, segments in rules.items():
            found.setdefault(name, []).append((segments, list(recording.segments)))
    return found


def compared(pairs: Sequence[tuple[Segments, Segments]]) -> str:
    """The share of wrong frames, and the errors of onsets and offsets found within 0.5 s."""
    wrong = total = 0
    for found, hand in pairs:
        frames = round(max(end for _, end in (*found, *hand)) / HOP_S)
        # short pauses are closed in the labels made by hand too
        truth = inside(stretches(inside(hand, frames)), frames)
        wrong += int((inside(found, frames) != truth).sum())
        total += frames
    parts = [f"{100 * wrong / total:5.1f} % of frames wrong"]
    edge: Callable[[tuple[float, float]], float]
    for name, edge in (("onset", lambda pair: pair[0]), ("offset", lambda pair: pair[1])):
        errors = []
        for found, hand in pairs:
            places = np.array([edge(segment) for segment in found])
            for segment in stretches(inside(hand, round(hand[-1][1] / HOP_S))):
                nearest = np.abs(places - edge(segment)).min(initial=1.0)
                errors += [nearest] if nearest < 0.5 else []
        middle, most = np.quantile(errors, (0.5, 0.9))
        parts.append(f"{name} {1000 * middle:3.0f} / {1000 * most:3.0f} ms")
    return ", ".join(parts)


def agreement(model: Model, found: Sequence[Recording]) -> str:
    """How often the rules differ, and how many recordings each of them leaves out."""
    differ = total = unfit = unclear = 0
    for recording in found:
        x = read(recording)
        by_words, by_level = aligned_segments(model, x, recording.text or ""), speech_segments(x)
        unfit += by_words is None
        unclear += by_level is None
        if by_words is not None and by_level is not None:
            frames = len(x) // round(HOP_S * RATE)
            differ += int((inside(by_words, frames) != inside(by_level, frames)).sum())
            total += frames
    return (
        f"the rules differ in {100 * differ / total:.1f} % of frames; of {len(found)} recordings "
        f"{unfit} have a text that does not fit, {unclear} no clear level"
    )


def main(model_folder: str, folder: str) -> None:
    warnings.simplefilter("ignore", AudioWarning)
    model = sk.prepare(sk.load(model_folder))
    for source in ("emu_ae", "mfa_tests"):
        for rule, pairs in by_hand(model, Path(folder), source).items():
            print(f"{source}, {len(pairs)} recordings, {rule}: {compared(pairs)}")
    transcribed: dict[str, list[Recording]] = {}
    for recording in recordings(Path(folder)):
        if recording.text and recording.part != "train":
            transcribed.setdefault(recording.source, []).append(recording)
    for source, found in transcribed.items():
        print(f"{source}: {agreement(model, found[:: max(1, len(found) // COMPARED)])}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"{__doc__}\ngive MODEL FOLDER")
    main(*sys.argv[1:])
