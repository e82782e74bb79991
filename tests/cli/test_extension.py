"""`--plugin FILE.py` on every command, and what is trained with it is used with it."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from speechkit.plugins import Registry, using

from .conftest import Cli

PLUGIN = """
import copy, torch
import speechkit as sk

class Sine(torch.nn.Module):
    def forward(self, x):
        return x.sin()

@sk.hookimpl
def speechkit_activations():
    exports = frozenset({"torch", "torch.export"})
    make = lambda channels: Sine()
    return [sk.Component(name="sine", factory=make, summary="Sine", exports=exports)]

def copied(model, examples):
    return copy.deepcopy(model), {}

@sk.hookimpl
def speechkit_transforms():
    return [sk.Component(name="copied", factory=lambda: copied, summary="The same again")]

@sk.hookimpl
def speechkit_commands(cli):
    @cli.command()
    def wave(name: str) -> None:
        print(f"hello {name}")
"""
RECIPE = """
import speechkit as sk
from speechkit.train import Data, Run

BLOCKS = (sk.Block(channels=8, kernel=5), sk.Block(channels=8, kernel=1, separable=False))

def base() -> Run:
    frontend = "log_mel:n_mels=16,normalize=running"
    net = sk.MatchboxNet(
        blocks=BLOCKS, labels=("low", "high"), activation="sine", frontend=frontend
    )
    return Run(model=net, data=Data(train="tones.jsonl", dev="tones.jsonl"), steps=1)
"""


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process in which no plugin file is loaded yet."""
    for module in ("sine_lab", "leaves"):
        # set, so that monkeypatch takes the module out of sys.modules again
        monkeypatch.setitem(sys.modules, module, None)
        del sys.modules[module]
    with using(Registry({"SPEECHKIT_PLUGINS": ""})):
        yield


@pytest.fixture
def folder(tmp_path: Path, sounds: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in with a plugin, a recipe and a manifest of two tones."""
    rows = [
        {"audio_filepath": str(sounds / f"{name}.wav"), "duration": 0.5, "label": name}
        for name in ("low", "high")
    ]
    (tmp_path / "tones.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "sine_lab.py").write_text(PLUGIN)
    (tmp_path / "run.py").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_a_file_trains_is_used_by_every_command(
    cli: Cli, folder: Path, sounds: Path, fresh: None
) -> None:
    plugin = ["--plugin", "sine_lab.py"]
    ended = cli(*plugin, "train", "run.py", "--device", "cpu", "--out", "out")
    assert ended.code == 0, ended.err
    model, low = "out/best", sounds / "low.wav"
    for command in (
        ["info", model],
        ["evaluate", model, "--manifest", "tones.jsonl"],
        ["classify", "--model", model, low],
        ["transform", model, "again", "--with", "copied"],
        ["info", "again"],
        ["listen", "--model", model, "--file", low],
        ["export", model, "--format", "torch.export", "--streaming", "--no-features"],
    ):
        with using(Registry({"SPEECHKIT_PLUGINS": ""})):
            ended = cli(*command)
            assert ended.code == 1
            assert "a Python file that is not loaded; add --plugin sine_lab.py" in ended.err
            ended = cli(*command, *plugin)
        assert ended.code == 0, ended.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--plugin", "sine_lab.py", "plugins", "show", "sine"],
        ["plugins", "show", "sine", "--plugin=sine_lab.py"],
        ["plugins", "--plugin", "sine_lab.py", "show", "sine"],
        ["wave", "sine", "--plugin", "sine_lab.py"],
        ["plugins", "show", "sine", "--plugin", "sine_lab.py", "--plugin", "sine_lab.py"],
    ],
)
def test_the_option_stands_before_a_command_or_behind_it(
    cli: Cli, folder: Path, fresh: None, arguments: list[str]
) -> None:
    ended = cli(*arguments)
    assert ended.code == 0, ended.err
    assert "sine" in ended.out.lower()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["doctor", "--plugin", "no.py"], 1, "no plugin file"),
        (["doctor", "--plugin"], 2, "--plugin"),
        (["plugins", "show", "sine", "--", "--plugin", "sine_lab.py"], 2, "extra argument"),
        (["doctor", "--plugin", "leaves.py"], 1, "leaves.py does not import: it calls sys.exit(0)"),
    ],
)
def test_a_file_that_cannot_be_loaded_is_one_line(
    cli: Cli, folder: Path, fresh: None, arguments: list[str], code: int, says: str
) -> None:
    (folder / "leaves.py").write_text("import sys; sys.exit(0)")
    ended = cli(*arguments)
    assert ended.code == code
    assert says in ended.err
    assert ended.err.count("\n") == 1
