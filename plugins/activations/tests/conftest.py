"""What the package's tests share: numbers and sounds."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechkit.data import Utterance, write_manifest

RATE = 16000


@pytest.fixture
def line() -> torch.Tensor:
    """Numbers from −6 to 6, `[1, 1, T]` float64, zero among them."""
    return torch.linspace(-6, 6, 1201, dtype=torch.float64)[None, None]


@pytest.fixture
def tones(tmp_path: Path) -> Path:
    """The manifest of eight high and low tones."""
    chance = np.random.default_rng(0)
    at_s = np.arange(int(0.4 * RATE)) / RATE
    utterances = []
    for i in range(8):
        sound = 0.3 * np.sin(2 * np.pi * (300 if i % 2 else 2000) * at_s)
        path = tmp_path / f"{i}.wav"
        soundfile.write(path, sound + chance.normal(0, 0.01, len(sound)), RATE)
        label = "low" if i % 2 else "high"
        utterances.append(Utterance(audio=path, duration_s=0.4, label=label))
    write_manifest(tmp_path / "tones.jsonl", utterances)
    return tmp_path / "tones.jsonl"
