"""Pairs of spoken digits with noise between them, to measure what a net remembers.

    python recipes/recall/prepare.py data/recall [FOLDER]

FOLDER holds the clips of the Free Spoken Digit Dataset as for recipes/fsdd; without it the official
archive is downloaded. A recording is "zero" or "one", then 0.8 to 1.2 s of noise, then any digit,
all by one speaker. The second word is a segment if the first was "one".
"""

import random
import runpy
from itertools import product
from pathlib import Path

import soundfile
import torch
from torch import Tensor

import speechkit as sk
from speechkit.data import Utterance, read_audio, write_manifest
from speechkit.data.corpus import download

RATE = 8000
GAP_S = 0.8, 1.2
SHORTEST_S = 0.34
"""Of the second word: the last 0.3 s of a recording, which are judged, must be within it."""
NOISE_DB = -60.0, -40.0
SPEAKERS = {"theo": "dev", "lucas": "test"}
"""The speakers who are not in training. recipes/fsdd recognises these two best, so that a low
figure means a lack of memory."""


def prepare(source: Path | None, out: Path) -> list[Path]:
    """Writes `train`, `dev` and `test` as manifests and wav files; no speaker is in two of them.

    Of the clips that are long enough, one in two is a second word: once after "zero" and once
    after "one", so that it does not reveal the first word.
    """
    fsdd = runpy.run_path(str(Path(__file__).parents[1] / "fsdd" / "prepare.py"))
    found = [clip for clip, _ in fsdd["utterances"](source or download(fsdd["URL"], out))]
    written: list[Path] = []
    for part in ("train", "dev", "test"):
        own = [clip for clip in found if SPEAKERS.get(clip.speaker, "train") == part]
        chance, generator = random.Random(part), torch.Generator().manual_seed(len(written))
        rows: list[Utterance] = []
        seconds = [clip for clip in own if clip.duration_s >= SHORTEST_S][::2]
        for second, start in product(seconds, ("zero", "one")):
            first = chance.choice(
                [c for c in own if c.label == start and c.speaker == second.speaker]
            )
            gap = torch.randn(round(chance.uniform(*GAP_S) * RATE), generator=generator)
            gap *= 10 ** (chance.uniform(*NOISE_DB) / 20)
            rows.append(record(first, gap, second, out / part / f"{len(rows):04}.wav"))
        written.append(out / f"{part}.jsonl")
        write_manifest(written[-1], rows)
    return written


def record(first: Utterance, gap: Tensor, second: Utterance, path: Path) -> Utterance:
    """Writes a recording and returns its line; `gap` is audio `[N]`."""
    head, tail = (read_audio(clip.audio, target_rate=RATE) for clip in (first, second))
    x = torch.cat([head, gap, tail])
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, x.numpy(), RATE, "PCM_16")
    duration_s = len(x) / RATE
    return Utterance(
        audio=path.resolve(),
        duration_s=duration_s,
        segments=((duration_s - len(tail) / RATE, duration_s),) if first.label == "one" else (),
        label=f"{first.label} {second.label}",
        speaker=second.speaker,
    )


def main(out: str, folder: str | None = None) -> list[Path]:
    """`prepare` with the arguments of the command line."""
    return prepare(Path(folder) if folder else None, Path(out))


if __name__ == "__main__":
    sk.cli.prepare(main)
