"""Tests where a voice activity model fails: other sounds, faint speech, sudden levels.

    python recipes/vad/limits.py vad FOLDER data/vad/dev.jsonl

FOLDER is that of prepare.py. Only recordings that training did not use are tested.
"""

import sys
import warnings
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import torch
from labels import Segments, speech_segments
from prepare import DEV_NOISE, DEV_SPEAKERS, sounds
from threshold import inside
from torch import Tensor

import speechkit as sk
from speechkit.data import AudioWarning, read_audio, read_manifest
from speechkit.infer import speech_probabilities
from speechkit.models import Model
from speechkit.predictions import segments_of
from speechkit.tasks import metrics

RATE = 16000
UTTERANCES = 40
SCENES = 120


def share(model: Model, x: Tensor) -> float:
    """The share of a recording `[N]` that is classified as speech."""
    found = segments_of(model, *speech_probabilities(model, x, RATE))
    return sum(s.end_s - s.start_s for s in found) / (len(x) / RATE)


def auc(model: Model, recordings: Iterable[tuple[Tensor, Segments]]) -> float:
    """The frame ROC-AUC over recordings and their speech."""
    labels, scores = [], []
    for x, segments in recordings:
        speech, frame_s, _ = speech_probabilities(model, x, RATE)
        labels.append(inside(segments, len(speech), frame_s))
        scores.append(torch.from_numpy(speech))
    return metrics.auc(torch.cat(labels).long(), torch.cat(scores))


def joined(recordings: list[tuple[Tensor, Segments]]) -> tuple[Tensor, Segments]:
    """The recordings, concatenated."""
    at_s, segments = 0.0, []
    for x, own in recordings:
        segments += [(a + at_s, b + at_s) for a, b in own]
        at_s += len(x) / RATE
    return torch.cat([x for x, _ in recordings]), segments


def main(name: str, folder: Path, dev: Path) -> None:
    warnings.simplefilter("ignore", AudioWarning)
    model = sk.load(name)
    kinds = defaultdict(list)
    for path in sounds(folder / "noise" / "esc10"):
        if path.name.startswith("5"):
            kinds[path.parent.name].append(share(model, read_audio(path)))
    for kind, shares in kinds.items():
        print(f"{kind}: {sum(shares) / len(shares):.3f} called speech, worst {max(shares):.2f}")
    for path in sounds(folder / "noise" / "background"):
        if path.stem in DEV_NOISE:
            print(f"{path.stem}: {share(model, read_audio(path)):.3f} called speech")
    paths = sounds(folder / "mini_librispeech")
    speech = [read_audio(p) for p in paths if p.name.split("-")[0] in DEV_SPEAKERS][:UTTERANCES]
    labels = [speech_segments(x.numpy()) or [] for x in speech]
    level_db = 20 * torch.cat(speech).square().mean().sqrt().log10().item()
    for gain_db in (0, -20, -40, -50, -60):
        quiet = [(x * 10 ** (gain_db / 20), own) for x, own in zip(speech, labels, strict=True)]
        print(f"clean speech at {level_db + gain_db:.0f} dB: AUC {auc(model, quiet):.4f}")
    crowd = [x[: 6 * RATE] for x in speech if len(x) >= 6 * RATE][::5][:7]
    talk = torch.stack(crowd).sum(0) / 7
    print(f"{len(crowd)} who talk at once: {share(model, talk):.2f} called speech")
    scenes = [(read_audio(u.audio), list(u.segments or ())) for u in read_manifest(dev)[:SCENES]]
    print(f"{SCENES} scenes: AUC {auc(model, scenes):.4f}", end=", ")
    print(f"as one recording {auc(model, [joined(scenes)]):.4f}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
