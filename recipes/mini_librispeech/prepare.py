"""Mini LibriSpeech (OpenSLR 31): five hours of read English, two to develop, as manifests.

    python recipes/mini_librispeech/prepare.py data/mini_librispeech [FOLDER]

FOLDER holds the official subsets, itself or in LibriSpeech/, or manifests `train.jsonl` and
`dev.jsonl` of a split of its own; without it the subsets are downloaded.
"""

import sys
from pathlib import Path

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


if __name__ == "__main__":
    out, *source = map(Path, sys.argv[1:])
    for path in prepare(source[0] if source else None, out):
        print(path)
