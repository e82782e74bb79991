"""One person's clips, and clips of others that the model must go on recognising, as manifests.

    python recipes/adapt/prepare.py data/adapt MINE [OLD]

MINE holds a folder for each label of the model, as in `MINE/seven/2.wav`, with two or more clips
of the same person; five are better. OLD is a folder with the manifests `train.jsonl` and
`dev.jsonl` of other people. Without it they are those of recipes/fsdd, which downloads its corpus.
"""

import random
import runpy
from pathlib import Path

import speechkit as sk
from speechkit.data import Utterance, audio_duration_s, find_audio, read_manifest, write_manifest
from speechkit.errors import ManifestError

FSDD = Path("data/fsdd")
HELD_OUT = 3
"""One of so many clips of each label, the last ones, is for evaluation."""
REPLAYED = 40
"""How many clips of others there are of each label, at most."""
MINE_SHARE = 0.5
"""The share of training that this person's clips make."""


def prepare(source: Path, out: Path, old: Path | None = None) -> list[Path]:
    """Writes `train.jsonl`; `mine.jsonl`, the clips that are held out; `old.jsonl`, the dev set."""
    if not source.is_dir():
        raise ManifestError(f"{source} is no folder; give one with a folder for each label")
    mine: list[Utterance] = []
    held_out: list[Utterance] = []
    for folder in sorted(p for p in source.iterdir() if p.is_dir() and p.name[0] not in "._"):
        clips = clips_of(folder)
        kept = min(len(clips) // 2, -(-len(clips) // HELD_OUT))
        held_out += clips[len(clips) - kept :]
        mine += clips[: len(clips) - kept]
    if not held_out:
        raise ManifestError(
            f"{source} has no label with two clips or more; add clips, such as {source}/LABEL/2.wav"
        )
    old = old or fsdd()
    others = replayed(read_manifest(old / "train.jsonl"))
    times = max(1, round(MINE_SHARE / (1 - MINE_SHARE) * len(others) / len(mine)))
    sets = {
        "train": mine * times + others,
        "mine": held_out,
        "old": read_manifest(old / "dev.jsonl"),
    }
    for name, clips in sets.items():
        write_manifest(out / f"{name}.jsonl", clips)
    return [out / f"{name}.jsonl" for name in sets]


def clips_of(folder: Path) -> list[Utterance]:
    """The clips of a label, without a speaker's name."""
    return [
        Utterance(audio=path.resolve(), duration_s=audio_duration_s(path), label=folder.name)
        for path in find_audio([folder])
    ]


def fsdd() -> Path:
    """The manifests of recipes/fsdd, which are made if there are none."""
    if not (FSDD / "all" / "dev.jsonl").is_file():
        recipe = Path(__file__).parents[1] / "fsdd" / "prepare.py"
        runpy.run_path(str(recipe))["prepare"](None, FSDD)
    return FSDD / "all"


def replayed(clips: list[Utterance]) -> list[Utterance]:
    """Clips of others by chance, always the same ones."""
    labels = sorted({str(clip.label) for clip in clips})
    each = [[clip for clip in clips if clip.label == label] for label in labels]
    chance = random.Random(0)
    return [c for pool in each for c in chance.sample(pool, min(len(pool), REPLAYED))]


def main(out: str, mine: str, old: str = "") -> list[Path]:
    """`prepare` with the arguments of the command line."""
    return prepare(Path(mine), Path(out), Path(old) if old else None)


if __name__ == "__main__":
    sk.cli.prepare(main)
