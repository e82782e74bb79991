"""Measures a model of this recipe on speakers and sounds of the test part.

    python recipes/words/judge.py digits FOLDER [CONDITION ...]

prints, with 95 % intervals: the accuracy on new speakers of Speech Commands, in each condition of
sound around the word; how often other words and recordings without the words are rejected; and for
a stream, how many words it finds, and how many false words per hour of talk, music and noise.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import sqrt
from pathlib import Path

import corpora
import numpy as np
import torch
from corpora import BACKGROUND, DIGITS, UNKNOWN
from surroundings import RATE, Chance, Sound, Surroundings, reverberate, rms, sound, surroundings
from surroundings import telephone as over_telephone

import speechkit as sk
from speechkit.data import Utterance
from speechkit.events import Keyword
from speechkit.models import Model

LATE_S = 0.5
"""A word counts as found if it is reported at most this long after its end."""
LONGEST_S = 20 * 60
"""The most of each kind of sound without words in the test of a stream."""

SNRS_DB = 45.0, 15.0
"""The level of words above the noise in the test of a stream: near silence, and noise or music."""

Change = Callable[[Sound, Surroundings, Chance], Sound]


def conditions() -> dict[str, Change]:
    """Each condition of sound around the word. A clip itself is a second with its own noise."""
    return {
        "as it is": lambda x, around, chance: x,
        "cut close": lambda x, around, chance: around.around(x, chance, "tight"),
        "silence around": lambda x, around, chance: around.around(x, chance, "silence"),
        "3 s, silence": lambda x, around, chance: np.pad(x, (RATE, RATE)),
        "5 s, silence": lambda x, around, chance: np.pad(x, (2 * RATE, 2 * RATE)),
        "faint noise": lambda x, around, chance: around.around(x, chance, "floor"),
        "noise and music, 10 dB": lambda x, around, chance: replace(around, snr_db=(10, 10)).around(
            x, chance, "noise"
        ),
        "other words around": lambda x, around, chance: around.around(x, chance, "words"),
        "room": lambda x, around, chance: reverberate(
            x, around.rooms[chance.integers(len(around.rooms))]
        ),
        "telephone": lambda x, around, chance: over_telephone(x, chance),
        "20 % faster and higher": lambda x, around, chance: resampled(x, 1.2),
        "40 dB quieter": lambda x, around, chance: x / 100,
    }


def resampled(x: Sound, speed: float) -> Sound:
    return np.interp(np.arange(0, len(x) - 1, speed), np.arange(len(x)), x)


def wilson(hits: int, of: int) -> str:
    """A share with its 95 % interval (Wilson, 1927)."""
    if not of:
        return "none"
    share, z = hits / of, 1.96
    middle = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z * sqrt(share * (1 - share) / of + z * z / (4 * of * of)) / (1 + z * z / of)
    return f"{share:.3f} ({max(0, middle - half):.3f} to {min(1, middle + half):.3f}) of {of}"


def called(model: Model, sounds: list[Sound]) -> list[str]:
    """The label of each sound, with peaks at 0 dBFS or below, as `sk.classify` returns it."""
    within = (x / max(1.0, np.abs(x).max()) for x in sounds)
    return [sk.classify(model, x, RATE).label for x in within]


def words_of(model: Model) -> tuple[str, ...]:
    return tuple(label for label in model.labels if label not in (UNKNOWN, BACKGROUND))


def accuracy(
    model: Model, clips: list[Utterance], around: Surroundings, change: Change
) -> tuple[int, int]:
    """How many clips get their own label, and how many clips there are."""
    chance = np.random.default_rng(0)
    sounds = [change(sound(clip), around, chance) for clip in clips]
    found = called(model, sounds)
    return sum(a == clip.label for a, clip in zip(found, clips, strict=True)), len(clips)


def rejected(model: Model, sounds: list[Sound]) -> str:
    """The share of sounds that get a label other than the words."""
    found = called(model, sounds)
    return wilson(sum(label not in words_of(model) for label in found), len(found))


def live(model: Model, x: Sound) -> list[Keyword]:
    """The words that a stream reports."""
    stream = sk.stream(model)
    parts = torch.from_numpy(x).float().split(RATE // 10)
    events = [event for part in parts for event in stream.feed(part)] + stream.finish()
    return [event for event in events if isinstance(event, Keyword)]


Spoken = list[tuple[float, float, str]]
"""The start, end and label of each word."""


def conversation(
    clips: list[Utterance], around: Surroundings, snr_db: float
) -> tuple[Sound, Spoken]:
    """Words with 1 to 2 s between them, and with noise or music below each."""
    chance = np.random.default_rng(1)
    parts, spoken, at = [], [], 0
    for clip in clips:
        word = around.around(sound(clip), chance, "tight")
        before, after = (round(chance.uniform(0.5, 1) * RATE) for _ in range(2))
        y = np.pad(word, (before, after))
        bed = np.resize(around.noise[chance.integers(len(around.noise))], len(y))
        y += bed * rms(word) / (rms(bed) + 1e-9) * 10 ** (-snr_db / 20)
        start = at + before
        spoken.append((start / RATE, (start + len(word)) / RATE, str(clip.label)))
        parts.append(y)
        at += len(y)
    return np.clip(np.concatenate(parts), -1, 1), spoken


def delays(events: list[Keyword], spoken: Spoken) -> list[float]:
    """For each word that was found, the time from its end to the decision in seconds."""
    found = []
    for start, end, label in spoken:
        times = [e.decided_s for e in events if e.label == label]
        found += [t - end for t in times if start < t <= end + LATE_S][:1]
    return found


def found_live(model: Model, clips: list[Utterance], around: Surroundings) -> Iterator[str]:
    """What a stream finds in near silence, and in noise or music."""
    for snr_db in SNRS_DB:
        x, spoken = conversation(clips, around, snr_db)
        events = live(model, x)
        late = delays(events, spoken)
        yield (
            f"live, noise and music {snr_db:.0f} dB below: found "
            f"{wilson(len(late), len(spoken))}, other events {len(events) - len(late)}, "
            f"median {np.median(late or [0]):.2f} s after the end"
        )


def without_words(source: Path, part: str) -> dict[str, Sound]:
    """Talk without the words, music and noise, of each at most LONGEST_S."""
    kinds: dict[str, list[Utterance]] = {"talk": [], "music": [], "noise": []}
    for where, clip in corpora.talk(source):
        if where == part and clip.text:
            kinds["talk"].append(clip)
    for where, kind, clip in corpora.noise(source):
        if where == part:
            kinds[kind].append(clip)
    return {
        kind: np.concatenate([sound(clip) for clip in recordings])[: LONGEST_S * RATE]
        for kind, recordings in kinds.items()
        if recordings
    }


def false_live(model: Model, source: Path) -> Iterator[str]:
    """The false words of a stream, for each kind of sound and per hour."""
    total, hours = 0, 0.0
    for kind, x in without_words(source, "test").items():
        events = live(model, x)
        total, hours = total + len(events), hours + len(x) / RATE / 3600
        yield f"live, {len(x) / RATE / 60:.1f} minutes of {kind}: {len(events)} false"
    yield f"live, false words per hour: {total / hours:.1f}"


def main(name: str, source: Path, *only: str) -> None:
    if unknown := {*only} - {*conditions()}:
        sys.exit(f"no condition {', '.join(sorted(unknown))}; known: {', '.join(conditions())}")
    model = sk.load(name)
    words = words_of(model)
    chance = np.random.default_rng(0)
    around = surroundings(source, "test", chance)
    test = [clip for part, clip in corpora.single_words(source) if part == "test"]
    clips = [clip for clip in test if clip.label in words]
    if not clips:
        sys.exit(f"{source} has no words of the part test; README.md names the corpora")
    for condition, change in conditions().items():
        if not only or condition in only:
            print(f"{condition}: {wilson(*accuracy(model, clips, around, change))}", flush=True)
    if only:
        return
    others = [sound(clip) for clip in test if clip.label not in words]
    print(f"rejected, other words: {rejected(model, others)}", flush=True)
    for kind, pool in (("other speech", around.talk), ("noise and music", around.noise)):
        print(f"rejected, {kind}: {rejected(model, pool)}", flush=True)
    if set(words) == set(DIGITS):
        known = [clip for part, clip in corpora.fsdd_digits(source) if part == "known"]
        hits = accuracy(model, known, around, conditions()["as it is"])
        print(f"FSDD, its own test part, speakers in training: {wilson(*hits)}", flush=True)
    for line in found_live(model, clips, around):
        print(line, flush=True)
    for line in false_live(model, source):
        print(line, flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(f"{__doc__}\ngive MODEL FOLDER [CONDITION ...]")
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
