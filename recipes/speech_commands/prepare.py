"""Speech Commands (Warden, arXiv:1804.03209): one word per clip, with the official splits.

    python recipes/speech_commands/prepare.py data/speech_commands 2 [FOLDER]

2 is the version, 1 or 2. FOLDER holds the unpacked archive; without it the archive is downloaded.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import speechkit as sk
from speechkit.data import Utterance, audio_duration_s, write_manifest
from speechkit.data.corpus import download
from speechkit.errors import ManifestError
from speechkit.text import read_lines

URL = "http://download.tensorflow.org/data/speech_commands_v0.0{version}.tar.gz"
LISTS = {"dev": "validation_list.txt", "test": "testing_list.txt"}
"""The data set's own lists, by the hash of the speaker; all other clips are for training."""
TEN = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
BACKGROUND = "_background_noise_"
EXTRA_SHARE = 0.1
"""Clips of unknown words, and of silence, per clip of the ten words."""
SHARES = {"train": (0.0, 0.8), "dev": (0.8, 0.9), "test": (0.9, 1.0)}
"""The segment of each background recording from which a part takes its silence."""
SILENCE_S, STRIDE_S = 1.0, 0.0625
NAMES = {1: "v1_30", 2: "v2_35"}

Parts = dict[str, list[Utterance]]


def prepare(source: Path | None, out: Path, version: int = 2) -> list[Path]:
    """Writes `train`, `dev` and `test` for each set of labels, a folder for each.

    `v1_30`, or `v2_35` and `v2_12`: ten words, `unknown` and `silence`.
    """
    if version not in NAMES:
        raise ManifestError(f"version={version}: Speech Commands has 1 and 2")
    source = source or download(URL.format(version=version), out)
    words = split_words(source)
    sets = {NAMES[version]: words}
    if version == 2:
        sets["v2_12"] = ten_and_two(words, source / BACKGROUND)
    manifests = {
        out / name / f"{part}.jsonl": rows
        for name, parts in sets.items()
        for part, rows in parts.items()
    }
    for path, rows in manifests.items():
        if not rows:
            raise ManifestError(f"{source} has no clips for {path}; give the whole archive")
    for path, rows in manifests.items():
        write_manifest(path, rows)
    return list(manifests)


def split_words(source: Path) -> Parts:
    """All clips of words, by official part."""
    if missing := [name for name in LISTS.values() if not (source / name).is_file()]:
        raise ManifestError(f"{source} holds no {missing[0]}; give the folder of the archive")
    part_of = {name: part for part, file in LISTS.items() for name in read_lines(source / file)}
    parts: Parts = {"train": [], "dev": [], "test": []}
    for path in sorted(source.glob("[!_]*/*.wav")):
        label = path.parent.name
        clip = Utterance(
            audio=path.resolve(),
            duration_s=audio_duration_s(path),
            label=label,
            speaker=path.name.partition("_")[0],
        )
        parts[part_of.get(f"{label}/{path.name}", "train")].append(clip)
    return parts


def ten_and_two(words: Parts, background: Path) -> Parts:
    """The ten words, and a tenth as many clips of other words, and of silence."""
    parts: Parts = {}
    for part, clips in words.items():
        known = [clip for clip in clips if clip.label in TEN]
        other = [replace(clip, label="unknown") for clip in clips if clip.label not in TEN]
        count = math.ceil(EXTRA_SHARE * len(known))
        chance = random.Random(part)
        parts[part] = known
        for name, pool in (("unknown", other), ("silence", list(silence(background, part)))):
            if len(pool) < count:
                raise ManifestError(
                    f"{part} has {len(pool)} clips of {name}, needs {count}; give the whole archive"
                )
            parts[part] = parts[part] + chance.sample(pool, count)
    return parts


def silence(background: Path, part: str) -> Iterator[Utterance]:
    """Seconds of the part's segment of each background recording, a sixteenth of a second apart."""
    first, last = SHARES[part]
    for path in sorted(background.glob("*.wav")):
        duration_s = audio_duration_s(path)
        start_s, end_s = first * duration_s, last * duration_s
        for index in range(math.floor((end_s - start_s - SILENCE_S) / STRIDE_S) + 1):
            yield Utterance(
                audio=path.resolve(),
                duration_s=SILENCE_S,
                label="silence",
                offset_s=start_s + index * STRIDE_S,
            )


def main(out: str, version: str, folder: str | None = None) -> list[Path]:
    """`prepare` with the arguments of the command line."""
    return prepare(Path(folder) if folder else None, Path(out), int(version))


if __name__ == "__main__":
    sk.cli.prepare(main)
