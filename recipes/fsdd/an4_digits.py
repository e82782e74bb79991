"""Digits of many more speakers, cut from AN4 by alignment with a model trained on it.

    python recipes/fsdd/an4_digits.py runs/an4/final data/an4

reads train.jsonl and dev.jsonl of the AN4 recipe and writes digits.jsonl to the same folder. Its
lines are segments of the recordings; no audio is copied.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import torch

import speechkit as sk
from speechkit import text
from speechkit.data import Utterance, read_audio, read_manifest, write_manifest
from speechkit.models import Model
from speechkit.text.align import align

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
MARGIN_S = 0.2
"""CTC labels are brief: a word is extended by so much before its first and after its last label,
but at most to the middle of the gap to the next word."""
SHORTEST_S, LONGEST_S = 0.12, 1.0
"""The shortest and longest digit; other lengths are alignment errors."""


def cut(model_folder: Path, manifests: Path) -> Path:
    """Writes `digits.jsonl` and returns its path."""
    model = sk.load(model_folder)
    utterances = [
        u for part in ("train", "dev") for u in read_manifest(manifests / f"{part}.jsonl")
    ]
    found = [word for u in utterances for word in digits(model, u)]
    write_manifest(manifests / "digits.jsonl", found)
    return manifests / "digits.jsonl"


def digits(model: Model, utterance: Utterance) -> Iterator[Utterance]:
    """The digits of one utterance."""
    words = text.normalize(utterance.text or "").split()
    if not set(words) & set(DIGITS):
        return
    with torch.inference_mode():
        scores, lengths = model(read_audio(utterance.audio)[None])
    labels = align(scores[0, : lengths[0]].numpy(), text.encode(" ".join(words)))
    starts, ends, at = [], [], 0
    for word in words:
        starts.append(labels[at][0] * model.frame_s)
        ends.append((labels[at + len(word) - 1][1] + 1) * model.frame_s)
        at += len(word) + 1
    middles = [0.0, *((a + b) / 2 for a, b in zip(ends, starts[1:], strict=False))]
    middles.append(utterance.duration_s)
    for index, word in enumerate(words):
        start_s = max(middles[index], starts[index] - MARGIN_S)
        end_s = min(middles[index + 1], ends[index] + MARGIN_S)
        if word in DIGITS and SHORTEST_S <= end_s - start_s <= LONGEST_S:
            yield Utterance(
                audio=utterance.audio,
                offset_s=round(start_s, 3),
                duration_s=round(end_s - start_s, 3),
                label=word,
                speaker=utterance.speaker,
            )


if __name__ == "__main__":
    print(cut(*map(Path, sys.argv[1:])))
