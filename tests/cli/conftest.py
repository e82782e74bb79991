"""A command line to call, tiny models to call it with, and sound."""

import io
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile

import speechkit as sk
from speechkit.cli.main import run

BLOCKS = (
    sk.Block(channels=8, kernel=5, stride=2),
    sk.Block(channels=16, kernel=1, separable=False),
)


class Ended(NamedTuple):
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str


Cli = Callable[..., Ended]


@pytest.fixture
def forgotten(tmp_path: Path) -> Iterator[None]:
    """Modules that a test has written are imported anew by the next one; no others are."""
    yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> Ended:
        capfd.readouterr()
        code = run([str(argument) for argument in arguments])
        return Ended(code, *capfd.readouterr())

    return call


class Pipe(io.BytesIO):
    """What a pipe gives."""

    name = "<stdin>"

    def seekable(self) -> bool:
        return False


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """`pipe(data)` is what comes from standard input."""

    def put(data: bytes) -> None:
        monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=Pipe(data)))

    return put


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny models `words`, `letters` and `speech`."""
    folder = tmp_path_factory.mktemp("models")
    streamed = "log_mel:normalize=running"
    words = sk.MatchboxNet(blocks=BLOCKS, labels=("low", "high"))
    letters = sk.QuartzNet(blocks=BLOCKS, frontend=streamed)
    speech = sk.MarbleNet(blocks=BLOCKS, frame_level=True)
    for name, config in (("words", words), ("letters", letters), ("speech", speech)):
        sk.save(sk.build(config), folder / name)
    return folder


@pytest.fixture(scope="session")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `low.wav` and `high.wav`, and with sound that is not as it should be."""
    folder = tmp_path_factory.mktemp("sounds")
    low = tone(200)
    soundfile.write(folder / "low.wav", low, 16000)
    soundfile.write(folder / "high.wav", tone(2000), 16000)
    soundfile.write(folder / "8k.wav", tone(200, 8000), 8000)
    soundfile.write(folder / "96k.wav", tone(200, 96000), 96000)
    soundfile.write(folder / "8channels.wav", np.stack([low] * 8, axis=1), 16000)
    soundfile.write(folder / "clipped.wav", np.clip(9 * low, -1, 1), 16000)
    soundfile.write(folder / "nan.wav", np.where(low > 0.2, np.nan, low), 16000, "FLOAT")
    (folder / "empty.wav").touch()
    (folder / "truncated.wav").write_bytes((folder / "low.wav").read_bytes()[:9000])
    (folder / "text.wav").write_text("this is not sound")
    return folder


def tone(hertz: float, rate: int = 16000) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * hertz * np.arange(rate // 2) / rate)
