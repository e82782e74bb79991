"""Makes scenes of one word each: digits and commands of many speakers, other speech and noise.

    python recipes/words/prepare.py data/words FOLDER [EXTRA.jsonl ...]

FOLDER holds the corpora of README.md, each in a folder with its name. EXTRA.jsonl has more words
for training: the output of voices.py or of recipes/fsdd/an4_digits.py. Writes wav files of 8 kHz
and manifests for `words`, `digits` and `commands`; for `digits` without one speaker of FSDD each;
and for `digits` with a half, a quarter and an eighth of the voices.
"""

import random
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import corpora
import numpy as np
import soundfile
from corpora import BACKGROUND, COMMANDS, DIGITS, UNKNOWN
from surroundings import RATE, Chance, Sound, Surroundings, sound, surroundings

import speechkit as sk
from speechkit.data import Utterance, read_manifest, write_manifest
from speechkit.errors import ManifestError

SCENES = {
    "train": {True: 3, False: 4},
    "dev": {True: 1, False: 1},
    "extra": {True: 1, False: 1},
}
"""Scenes of each clip of a digit (True) or of another word (False), which has fewer speakers."""
PIECES = {"train": 4000, "dev": 300}
"""How many scenes of other speech there are, and how many of background."""
PIECE_SCENES = 10
"""The most scenes that are made of one piece."""
UNKNOWN_MOST = 1.0
"""The most clips of `unknown`, as a multiple of the clips of the words."""
FEWER = {"half": 2, "quarter": 4, "eighth": 8}
"""Sets of digits with a part of the voices, and one of how many voices they keep."""


def prepare(source: Path, out: Path, *extra: Path) -> list[Path]:
    """Writes `train.jsonl` and `dev.jsonl` for each set; no speaker is in both."""
    words = list(corpora.single_words(source)) if source.is_dir() else []
    if not words:
        raise ManifestError(f"{source} has no words/*/manifest.jsonl; give the folder of corpora")
    more = {"train": [word for manifest in extra for word in read_manifest(manifest)]}
    fsdd = list(corpora.fsdd_digits(source))
    pool: dict[str, list[Utterance]] = {}
    for part in ("train", "dev"):
        chance = np.random.default_rng(len(part))
        around = surroundings(source, part, chance)
        clips = [clip for where, clip in words if where == part]
        # FSDD has no scenes for dev: dev sets of one speaker have the clips themselves
        clips += [clip for where, clip in fsdd if where == part]
        made = chain(
            scenes(clips, around, part, chance),
            scenes(more.get(part, []), around, "extra", chance),
            pieces(around, PIECES[part], chance),
        )
        pool[part] = list(saved(made, out / "wav" / part))
        print(part, dict(Counter(str(u.label) for u in pool[part])))
    known = [clip for where, clip in fsdd if where == "known"]
    speakers = sorted({str(clip.speaker) for clip in known})
    own = [u for u in pool["train"] if u.speaker in speakers]
    others = [u for u in pool["train"] if u.speaker not in speakers]
    sets = {
        "words": (others, pool["dev"]),
        "commands": tuple(relabelled(rows, COMMANDS) for rows in (others, pool["dev"])),
        "digits": tuple(relabelled(rows, DIGITS) for rows in (pool["train"], pool["dev"])),
    }
    for speaker in speakers:
        rest = [u for u in [*others, *own] if u.speaker != speaker]
        sets[speaker.removeprefix("fsdd-")] = (
            relabelled(rest, DIGITS),
            [clip for _, clip in fsdd if clip.speaker == speaker],
        )
    for name, share in FEWER.items():
        rows = [u for u in pool["train"] if kept(u.speaker or "", share)]
        sets[name] = (relabelled(rows, DIGITS), sets["digits"][1])
    for name, parts in sets.items():
        for part, rows in zip(("train", "dev"), parts, strict=True):
            write_manifest(out / name / f"{part}.jsonl", rows)
    return [out / name / f"{part}.jsonl" for name in sets for part in ("train", "dev")]


Row = tuple[Sound, str, str | None]
"""A sound, its label and its speaker."""


def scenes(
    clips: list[Utterance], around: Surroundings, part: str, chance: Chance
) -> Iterator[Row]:
    """Each word as it is, and with other sound around it."""
    for clip in clips:
        x = sound(clip)
        for number in range(SCENES[part][clip.label in DIGITS]):
            plain = number == 0 and part == "train"
            yield x if plain else around.scene(x, chance), str(clip.label), clip.speaker


def pieces(around: Surroundings, count: int, chance: Chance) -> Iterator[Row]:
    """Other speech and background, in the same rooms and telephones; some of it is silence."""
    for label, pool in ((UNKNOWN, around.talk), (BACKGROUND, around.noise)):
        for number in range(min(count, PIECE_SCENES * len(pool))):
            x = pool[chance.integers(len(pool))]
            if label == BACKGROUND and number % 8 == 0:
                x = chance.standard_normal(len(x)) * 10 ** (-chance.uniform(45, 100) / 20)
            scene = around.channel if label == BACKGROUND else around.scene
            yield scene(x, chance), label, None


def saved(rows: Iterable[Row], folder: Path) -> Iterator[Utterance]:
    """Writes each sound as a file, with peaks at 0 dBFS or below."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (x, label, speaker) in enumerate(rows):
        path = folder / f"{number:06}.wav"
        soundfile.write(path, x / max(1.0, np.abs(x).max()), RATE, "PCM_16")
        yield Utterance(
            audio=path.resolve(), duration_s=len(x) / RATE, label=label, speaker=speaker
        )


def kept(speaker: str, share: int) -> bool:
    """Whether one of `share` voices is this one; sounds without a speaker are kept."""
    return not speaker or zlib.crc32(speaker.encode()) % share == 0


def relabelled(rows: list[Utterance], labels: tuple[str, ...]) -> list[Utterance]:
    """The rows of `labels` and `background`, and some others as `unknown`; see UNKNOWN_MOST."""
    own = [u for u in rows if u.label in labels]
    unknown = [u for u in rows if u.label not in (*labels, BACKGROUND)]
    most = min(len(unknown), round(UNKNOWN_MOST * len(own)))
    unknown = random.Random(0).sample(unknown, most)
    background = [u for u in rows if u.label == BACKGROUND]
    return own + [replace(u, label=UNKNOWN) for u in unknown] + background


if __name__ == "__main__":
    sk.cli.prepare(lambda out, folder, *extra: prepare(Path(folder), Path(out), *map(Path, extra)))
