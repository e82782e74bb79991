"""Tiny nets with three residual blocks of one shape, and tones as their recordings."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import speechkit as sk
from speechkit.data import Utterance, write_manifest
from speechkit.models import Net

RATE = 16000
BLOCKS = (
    sk.Block(channels=8, kernel=5, stride=2),
    sk.Block(channels=8, kernel=5, repeat=2, residual=True, copies=3),
    sk.Block(channels=12, kernel=1, separable=False),
)
NETS: dict[str, Net] = {
    "ctc": sk.QuartzNet(labels=tuple(" hilo"), blocks=BLOCKS, frontend="log_mel:n_mels=16"),
    "clip": sk.MatchboxNet(labels=("low", "high"), blocks=BLOCKS, frontend="log_mel:n_mels=16"),
    "frame": sk.MarbleNet(frame_level=True, blocks=BLOCKS, frontend="log_mel:n_mels=16"),
}


@pytest.fixture
def nets() -> dict[str, Net]:
    """A tiny net for each task."""
    return NETS


@pytest.fixture(params=NETS)
def net(request: pytest.FixtureRequest) -> Net:
    """A tiny net for each task in turn."""
    return NETS[request.param]


@pytest.fixture
def model(net: Net) -> sk.Model:
    """A model of each net, whose norms have statistics as if it were trained."""
    return with_statistics(sk.build(net, 1))


@pytest.fixture
def corpus(tmp_path: Path) -> Callable[..., Path]:
    """`corpus(count)` writes tones of different lengths, with labels, texts and segments, and
    returns their manifest."""

    def write(count: int = 6) -> Path:
        chance = np.random.default_rng(0)
        utterances = []
        for i in range(count):
            at_s = np.arange(int((0.4 + 0.03 * i) * RATE)) / RATE
            sound = 0.3 * np.sin(2 * np.pi * (300 if i % 2 else 2000) * at_s)
            path = tmp_path / f"{i}.wav"
            soundfile.write(path, sound + chance.normal(0, 0.01, len(sound)), RATE)
            utterances.append(
                Utterance(
                    audio=path,
                    duration_s=len(sound) / RATE,
                    text="lo" if i % 2 else "hi",
                    label="low" if i % 2 else "high",
                    segments=((0.1, 0.4),),
                )
            )
        write_manifest(tmp_path / "corpus.jsonl", utterances)
        return tmp_path / "corpus.jsonl"

    return write


def with_statistics(model: sk.Model) -> sk.Model:
    """The model in evaluation, with drawn means, variances, gains and biases of its norms."""
    generator = torch.Generator().manual_seed(0)
    for name, value in model.state_dict().items():
        if name.endswith("running_mean"):
            value.normal_(generator=generator)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 2, generator=generator)
        elif name.endswith("norm.weight"):
            value.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith("norm.bias"):
            value.normal_(0, 0.3, generator=generator)
    return model.eval()


PLANTED = {3: 60.0, 7: 40.0}
"""Channels that are made larger, and how many times."""


@pytest.fixture
def wide() -> Callable[..., sk.Model]:
    """`wide(planted=True)` is a net of 64 channels. Where planted, the PLANTED channels of each
    depthwise output are larger, and their weights behind it smaller, so that no score differs."""
    blocks = (
        sk.Block(channels=64, kernel=5, stride=2),
        sk.Block(channels=64, kernel=5, residual=True, copies=2),
        sk.Block(channels=64, kernel=1, separable=False),
    )

    @torch.no_grad()
    def build(planted: bool = True) -> sk.Model:
        config = replace(
            NETS["clip"],
            blocks=blocks,
            frontend="mfcc:n_mfcc=16,n_mels=16",
            labels=tuple("abcdefgh"),
        )
        model = sk.build(config, 1).eval()
        named = dict(model.named_parameters())
        for name in named if planted else ():
            if name.endswith("mixer.weight"):
                for channel, factor in PLANTED.items():
                    named[name][channel] *= factor
                    named[name.replace("mixer", "channel")][:, channel] /= factor
        return model

    return build
