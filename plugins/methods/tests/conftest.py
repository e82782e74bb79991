"""What the tests share: a tiny run with everything that draws random numbers."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechkit.data import Utterance, write_manifest
from speechkit.models import Block, MatchboxNet
from speechkit.train import Data, Run

RATE = 16000


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Seven steps of a clip classifier of two tones."""
    chance = np.random.default_rng(0)
    utterances = []
    for i in range(8):
        at_s = np.arange(int((0.4 + 0.02 * i) * RATE)) / RATE
        sound = 0.3 * np.sin(2 * np.pi * (300 if i % 2 else 2000) * at_s)
        path = tmp_path / f"{i}.wav"
        soundfile.write(path, sound + chance.normal(0, 0.01, len(sound)), RATE)
        label = "low" if i % 2 else "high"
        utterances.append(Utterance(audio=path, duration_s=len(sound) / RATE, label=label))
    write_manifest(tmp_path / "all.jsonl", utterances)
    blocks = (
        Block(channels=8, kernel=5, stride=2),
        Block(channels=8, kernel=5, repeat=2, residual=True),
        Block(channels=8, kernel=1, separable=False),
    )
    return Run(
        model=MatchboxNet(
            labels=("low", "high"),
            blocks=blocks,
            frontend="log_mel:n_mels=16,normalize=running",
            dropout=0.2,
        ),
        data=Data(train=tmp_path / "all.jsonl", dev=tmp_path / "all.jsonl", batch_size=3),
        steps=7,
        schedule="constant",
        augment=("white_noise", "spec_augment"),
        accumulate=2,
        ema=0.9,
        clip_norm=1.0,
        eval_every=3,
        save_every=2,
        log_every=1,
    )
