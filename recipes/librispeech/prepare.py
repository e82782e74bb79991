"""LibriSpeech (OpenSLR 12): read English, 100, 360 or 960 hours, as a manifest per subset.

    python recipes/librispeech/prepare.py data/librispeech 960 [FOLDER]

FOLDER holds the official subsets, itself or in LibriSpeech/; without it they are downloaded.
"""

from pathlib import Path

import speechkit as sk
from speechkit.data import write_manifest
from speechkit.data.librispeech import librispeech
from speechkit.errors import ManifestError

OPENSLR = 12
TRAIN = {
    100: ("train-clean-100",),
    360: ("train-clean-360",),
    960: ("train-clean-100", "train-clean-360", "train-other-500"),
}
JUDGED = ("dev-clean", "dev-other", "test-clean", "test-other")


def prepare(source: Path | None, out: Path, hours: int = 960) -> list[Path]:
    """Writes a manifest for each official subset: those for training, and all dev and test subsets.

    The official subsets share no speaker.
    """
    if hours not in TRAIN:
        raise ManifestError(f"hours={hours}: LibriSpeech has {', '.join(map(str, TRAIN))}")
    found = {
        subset: librispeech(subset, OPENSLR, source, out) for subset in (*TRAIN[hours], *JUDGED)
    }
    for subset, rows in found.items():
        write_manifest(out / f"{subset}.jsonl", rows)
    return [out / f"{subset}.jsonl" for subset in found]


def main(out: str, hours: str, folder: str | None = None) -> list[Path]:
    """`prepare` with the arguments of the command line."""
    return prepare(Path(folder) if folder else None, Path(out), int(hours))


if __name__ == "__main__":
    sk.cli.prepare(main)
