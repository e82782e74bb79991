"""Measures digit spotting in a stream: the official test clips with pauses, and noise alone.

    python recipes/fsdd/spotting.py runs/fsdd/all/best data/fsdd/all/dev.jsonl [NOISE_FOLDER]

Clips are in random order, each at its own level, 0.4 to 1.2 s apart, with faint noise. A clip is
detected if the model returns its digit between the clip's beginning and 0.6 s after its end.
"""

import random
import sys
from pathlib import Path

import torch
from torch import Tensor

import speechkit as sk
from speechkit.data import find_audio, read_audio, read_manifest
from speechkit.events import Keyword
from speechkit.models import Model

LATE_S = 0.6
NOISE_S = 20
"""The seconds of each recording of noise that are used."""

Spoken = list[tuple[float, float, str]]


def conversation(manifest: Path, rate: int) -> tuple[Tensor, Spoken]:
    """The sound `[N]`, and the start, end and label of each clip in it."""
    chance, generator = random.Random(0), torch.Generator().manual_seed(0)
    clips = read_manifest(manifest)
    chance.shuffle(clips)
    parts, spoken, at = [], [], 0
    for clip in clips:
        pause = torch.randn(int(rate * chance.uniform(0.4, 1.2)), generator=generator)
        parts.append(pause * 10 ** (chance.uniform(-70, -45) / 20))
        parts.append(read_audio(clip.audio, target_rate=rate) * 10 ** chance.uniform(-0.6, 0.15))
        start = at + len(parts[-2])
        at = start + len(parts[-1])
        spoken.append((start / rate, at / rate, clip.label or ""))
    return torch.cat(parts).clamp(-1, 1), spoken


def detect(model: Model, x: Tensor) -> list[Keyword]:
    """The keywords of a stream."""
    stream = sk.stream(model)
    return [event for event in stream.feed(x) + stream.finish() if isinstance(event, Keyword)]


def main(name: str, manifest: Path, noise: Path | None) -> None:
    model = sk.load(name)
    x, spoken = conversation(manifest, model.sample_rate)
    events = detect(model, x)
    hits = sum(
        any(e.label == label and start < e.at_s <= end + LATE_S for e in events)
        for start, end, label in spoken
    )
    print(f"{hits} of {len(spoken)} detected, {len(events) - hits} other events in {len(events)}")
    if noise:
        sounds = [read_audio(path, target_rate=model.sample_rate) for path in find_audio([noise])]
        x = torch.cat([sound[: NOISE_S * model.sample_rate] for sound in sounds])
        minutes = len(x) / model.sample_rate / 60
        print(f"{len(detect(model, x)) / minutes:.1f} events per minute of {minutes:.1f} of noise")


if __name__ == "__main__":
    name, manifest, *noise = sys.argv[1:]
    main(name, Path(manifest), Path(noise[0]) if noise else None)
