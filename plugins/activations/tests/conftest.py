"""What the package's tests share: one thread, the core's components and this package's."""

import os
from collections.abc import Iterator
from pathlib import Path

# before torch is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import soundfile
import torch

from speechkit.data import Utterance, write_manifest
from speechkit.plugins import registry

torch.set_num_threads(1)
RATE = 16000


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Exports take seconds each."""
    for item in items:
        if Path(__file__).parent in item.path.parents and "check_export_equals" in item.name:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True, scope="module")
def only_activations() -> Iterator[None]:
    """The process's registry is of the core and this package, and as it was before afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPEECHKIT_PLUGINS", "activations")
        registry.cache_clear()
        yield
    registry.cache_clear()


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
