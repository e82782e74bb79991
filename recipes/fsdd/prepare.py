"""Free Spoken Digit Dataset: one digit per clip, 8 kHz, as manifests split by speaker.

    python recipes/fsdd/prepare.py data/fsdd [FOLDER [EXTRA.jsonl]]

FOLDER holds files named {digit}_{speaker}_{index}.wav or .flac; without it the official archive is
downloaded. EXTRA.jsonl, a manifest of digits by other speakers, is added to each training set;
an4_digits.py writes one.
"""

import re
from pathlib import Path

import speechkit as sk
from speechkit.data import Utterance, audio_duration_s, read_manifest, write_manifest
from speechkit.data.corpus import download
from speechkit.errors import ManifestError

URL = "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/v1.0.10.tar.gz"
NAME = re.compile(r"(?P<digit>\d)_(?P<speaker>[a-z]+)_(?P<index>\d+)\.(wav|flac)")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
OFFICIAL_TEST = 5
"""Clips with a smaller index are the data set's own test part."""


def prepare(source: Path | None, out: Path, extra: Path | None = None) -> list[Path]:
    """Writes `all` and a folder per speaker, with this speaker as dev set and all others to train.

    `all` trains on every speaker; its dev set is the official test part.
    """
    clips = utterances(source or download(URL, out))
    splits = {
        speaker: [clip.speaker == speaker for clip, _ in clips]
        for speaker in sorted({clip.speaker or "" for clip, _ in clips})
    }
    splits["all"] = [index < OFFICIAL_TEST for _, index in clips]
    others = read_manifest(extra) if extra else []
    written = []
    for name, held_out in splits.items():
        rows = [clip for clip, _ in clips]
        parts = {"train": [not dev for dev in held_out], "dev": held_out}
        for part, chosen in parts.items():
            path = out / name / f"{part}.jsonl"
            kept = [u for u, keep in zip(rows, chosen, strict=True) if keep]
            write_manifest(path, kept + others if part == "train" else kept)
            written.append(path)
    return written


def utterances(source: Path) -> list[tuple[Utterance, int]]:
    """Every clip below `source` with its index."""
    found = []
    for path in sorted(source.rglob("*_*_*.*")):
        if match := NAME.fullmatch(path.name):
            clip = Utterance(
                audio=path.resolve(),
                duration_s=audio_duration_s(path),
                label=DIGITS[int(match["digit"])],
                speaker=match["speaker"],
            )
            found.append((clip, int(match["index"])))
    if not found:
        raise ManifestError(f"{source} holds no clips named like 7_jackson_32.wav")
    return found


def main(out: str, folder: str | None = None, extra: str | None = None) -> list[Path]:
    """`prepare` with the arguments of the command line."""
    return prepare(Path(folder) if folder else None, Path(out), Path(extra) if extra else None)


if __name__ == "__main__":
    sk.cli.prepare(main)
