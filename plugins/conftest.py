"""What the packages' tests share: one thread, the core's components with the package's, nets of
each family, tiny nets with recordings, parts of a block, and frames.
"""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

# before torch is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor, nn

import speechkit as sk
from speechkit.data import Utterance, write_manifest
from speechkit.models import Net
from speechkit.nn import Add, BatchNorm, BodyMaker, DepthwiseConv, FrameWise, Pointwise
from speechkit.plugins import Registry, using

torch.set_num_threads(1)

HERE = Path(__file__).parent
LOADED = {
    "methods": "methods,activations",
    "mixers": "mixers,norms",
    "residuals": "residuals,norms,activations",
}
"""The plugins for the tests of a package that needs others too."""

FAMILIES: dict[str, Callable[..., Net]] = {
    "quartznet": partial(sk.QuartzNet, size="5x5"),
    "matchboxnet": partial(sk.MatchboxNet, labels=("a", "b"), size="3x1x64"),
    "marblenet": partial(sk.MarbleNet, size="3x2x64"),
}

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
"""A tiny net with three residual blocks of one shape, for each task."""


def package_of(path: Path) -> str:
    """The package whose test this is."""
    return path.relative_to(HERE).parts[0]


@pytest.fixture(autouse=True, scope="module")
def only_the_package(request: pytest.FixtureRequest) -> Iterator[None]:
    """The process's registry has the core and the package, and is as it was before afterwards."""
    package = package_of(request.path)
    with pytest.MonkeyPatch.context() as patch:
        # for processes that tests start
        patch.setenv("SPEECHKIT_PLUGINS", LOADED.get(package, package))
        with using(Registry()):
            yield


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Callable[..., Net]:
    """`family(block="rglru", ...)`: the config of a net of each family in turn."""
    return FAMILIES[request.param]


@pytest.fixture
def maker() -> Callable[..., BodyMaker]:
    """`maker(repeat=1, ...)`: the parts of a small QuartzNet block, plain ones by default."""

    def make(**fields: object) -> BodyMaker:
        parts: dict[str, object] = {
            "kernel": 3,
            "lookahead": 1,
            "mixer": DepthwiseConv,
            "channel": Pointwise,
            "norm": BatchNorm,
            "activation": lambda channels: FrameWise(nn.ReLU()),
            "merge": lambda channels, index, depth: Add(),
        }
        return BodyMaker(**{**parts, **fields})  # type: ignore[arg-type]

    return make


@pytest.fixture
def frames() -> Callable[..., Tensor]:
    """`frames(channels)`: two rows of 12 normal frames, channels-last, in float64."""

    def make(channels: int = 8, count: int = 12, seed: int = 0) -> Tensor:
        chance = torch.Generator().manual_seed(seed)
        x = torch.randn(2, count, channels, generator=chance, dtype=torch.float64)
        return x.transpose(1, 2)

    return make


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
