"""What the package's tests share: numbers, sounds and what a probe finds in them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechkit.data import Utterance, write_manifest
from speechkit.models import Model
from speechkit.probes import Examples, probe

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


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """The manifest of noise of two lengths, without a target."""
    chance = torch.Generator().manual_seed(1)
    utterances = []
    for count in (8000, 5000):
        path = tmp_path / f"{count}.wav"
        soundfile.write(path, 0.1 * torch.randn(count, generator=chance).numpy(), RATE)
        utterances.append(Utterance(audio=path, duration_s=count / RATE))
    write_manifest(tmp_path / "noise.jsonl", utterances)
    return tmp_path / "noise.jsonl"


@pytest.fixture
def sparsity(noise: Path) -> Callable[[Model], dict[str, torch.Tensor]]:
    """`sparsity(model)`: what the probe of that name finds in the noise."""
    return lambda model: probe(model, ["sparsity"], Examples(model, noise))["sparsity"]
