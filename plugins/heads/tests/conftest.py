"""A small classifier, and recordings of two words that it does not know."""

from pathlib import Path

import pytest
import soundfile
import torch

import speechkit as sk
from speechkit.data import Utterance, write_manifest
from speechkit.rules.spotting import Spotting

RATE = 8000


@pytest.fixture
def model() -> sk.Model:
    net = sk.MatchboxNet(
        size="1x1x16",
        labels=("a", "b", "background"),
        sample_rate=RATE,
        frontend="mfcc:n_mfcc=20,n_mels=20",
        spotting=Spotting(window_s=0.5, clip_skips=("background",)),
    )
    return sk.build(net, seed=1).eval()


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """The manifest of three clips of a high and three of a low tone, and noise with label a."""
    torch.manual_seed(0)
    rows = []
    for label, hertz in ("high", 1500.0), ("low", 300.0), ("a", 0.0):
        for number in range(1 if label == "a" else 3):
            t = torch.arange(RATE * (3 if label == "a" else 1)) / RATE
            tone = 0.3 * torch.sin(2 * torch.pi * hertz * (1 + 0.03 * number) * t)
            path = tmp_path / f"{label}_{number}.wav"
            x = tone + 0.03 * torch.randn(len(t))
            soundfile.write(path, x.numpy(), RATE)
            rows.append(Utterance(audio=path, duration_s=len(t) / RATE, label=label))
    manifest = tmp_path / "words.jsonl"
    write_manifest(manifest, rows)
    return manifest
