"""Mini LibriSpeech (OpenSLR 31): five hours of read English, two for development, as manifests.

    python recipes/mini_librispeech/prepare.py data/mini_librispeech [FOLDER]

FOLDER holds the official subsets, itself or in LibriSpeech/, or manifests `train.jsonl` and
`dev.jsonl` of another split; without it the subsets are downloaded.
"""

from pathlib import Path

import speechkit as sk
from speechkit.data import read_manifest, write_manifest
from speechkit.data.librispeech import librispeech

OPENSLR = 31
SUBSETS = {"train": "train-clean-5", "dev": "dev-clean-2"}


def prepare(source: Path | None, out: Path) -> list[Path]:
    """Writes `train.jsonl` and `dev.jsonl`, which share no speaker."""
    if source is not None and (source / "dev.jsonl").is_file():
        parts = {name: read_manifest(source / f"{name}.jsonl") for name in SUBSETS}
    else:
        parts = {
            name: librispeech(subset, OPENSLR, source, out) for name, subset in SUBSETS.items()
        }
    for name, rows in parts.items():
        write_manifest(out / f"{name}.jsonl", rows)
    return [out / f"{name}.jsonl" for name in parts]


def main(out: str, folder: str | None = None) -> list[Path]:
    """`prepare` with the arguments of the command line."""
    return prepare(Path(folder) if folder else None, Path(out))


if __name__ == "__main__":
    sk.cli.prepare(main)
