"""AN4 (CMU, 1991): spelled letters, digits and commands, as manifests.

    python recipes/an4/prepare.py data/an4 [FOLDER]

FOLDER holds the official archive, or a `manifest.jsonl` of its training part; without it the
archive is downloaded. The dictionary `an4.dic` is copied if it exists.
"""

import hashlib
import re
import shutil
from pathlib import Path

import speechkit as sk
from speechkit.data import Utterance, audio_duration_s, read_manifest, write_manifest
from speechkit.data.corpus import download
from speechkit.errors import ManifestError
from speechkit.text import read_lines

URL = "http://www.speech.cs.cmu.edu/databases/an4/an4_sphere.tar.gz"
LINE = re.compile(r"(?:<s>)?(?P<text>.*?)(?:</s>)?\s*\((?P<name>[^()]+)\)\s*")
DEV_SHARE = 7
"""One speaker in this many is for development, by the hash of the name."""


def prepare(source: Path | None, out: Path) -> list[Path]:
    """Writes `train.jsonl`, `dev.jsonl`, and `test.jsonl` if the official test part exists.

    No speaker is in two of them.
    """
    source = source or download(URL, out)
    parts = {"train": utterances(source, "train")}
    parts["dev"] = [u for u in parts["train"] if is_dev(u.speaker or "")]
    parts["train"] = [u for u in parts["train"] if not is_dev(u.speaker or "")]
    if any(source.rglob("an4_test.transcription")):
        parts["test"] = utterances(source, "test")
    for name, rows in parts.items():
        write_manifest(out / f"{name}.jsonl", rows)
    if dictionary := next(source.rglob("an4.dic"), None):
        shutil.copyfile(dictionary, out / "an4.dic")
    return [out / f"{name}.jsonl" for name in parts]


def utterances(source: Path, part: str) -> list[Utterance]:
    """The utterances of a part, each with its speaker, the name's middle: an251-fash-b."""
    if manifest := next(source.rglob("manifest.jsonl"), None):
        found = [(u.audio, u.text or "") for u in read_manifest(manifest)]
    elif transcript := next(source.rglob(f"an4_{part}.transcription"), None):
        audio = {p.stem: p for p in source.rglob("*.sph")}
        lines = map(LINE.fullmatch, read_lines(transcript))
        found = [(audio[m["name"]], m["text"].strip().lower()) for m in lines if m]
    else:
        raise ManifestError(f"{source} holds no AN4; give the folder of {URL.rpartition('/')[2]}")
    return [
        Utterance(
            audio=path,
            duration_s=audio_duration_s(path),
            text=text,
            speaker=path.stem.split("-")[1],
        )
        for path, text in found
    ]


def is_dev(speaker: str) -> bool:
    """Whether a speaker is kept out of training, the same on every machine."""
    return hashlib.sha256(speaker.encode()).digest()[0] % DEV_SHARE == 0


def main(out: str, folder: str | None = None) -> list[Path]:
    """`prepare` with the arguments of the command line."""
    return prepare(Path(folder) if folder else None, Path(out))


if __name__ == "__main__":
    sk.cli.prepare(main)
