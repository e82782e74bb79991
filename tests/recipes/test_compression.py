"""The compression recipe: rounds of train, prune and rewind, and the time of a step."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
import torch

import speechkit as sk
from speechkit.data import Utterance, write_manifest
from speechkit.errors import ConfigError
from speechkit.plugins import Registry, using

pytest.importorskip("speechkit_compression")
RECIPE = Path(__file__).parents[2] / "recipes" / "compression"
RUN = """
from pathlib import Path
import speechkit as sk
from speechkit.train import Data, Run

def base():
    blocks = [sk.Block(channels=8, kernel=5), sk.Block(channels=8, kernel=5, residual=True)]
    net = sk.MatchboxNet(labels=("low", "high"), blocks=blocks, sample_rate=8000)
    data = Data(train=Path("all.jsonl"), dev=Path("all.jsonl"), batch_size=2)
    return Run(model=net, data=data, steps=1, eval_every=1, save_every=1)
"""


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, ModuleType]]:
    """Its modules, in a folder with a run on four tones."""
    monkeypatch.syspath_prepend(str(RECIPE))
    monkeypatch.chdir(tmp_path)
    rows = []
    for index, (label, hz) in enumerate([("low", 300), ("high", 2000)] * 2):
        path = tmp_path / f"{index}.wav"
        soundfile.write(path, 0.3 * np.sin(2 * np.pi * hz * np.arange(4000) / 8000), 8000)
        rows.append(Utterance(audio=path, duration_s=0.5, label=label))
    write_manifest("all.jsonl", rows)
    Path("tones.py").write_text(RUN)
    # of the package's components
    monkeypatch.setenv("SPEECHKIT_PLUGINS", "compression")
    names = "rounds", "steps"
    with using(Registry()):
        yield {name: importlib.import_module(name) for name in names}
    for name in names:
        del sys.modules[name]


def weights(folder: str) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in sk.load(folder).parameters() if p.ndim > 1])


def test_each_round_begins_with_the_initial_weights_and_more_zeros(
    recipe: dict[str, ModuleType],
) -> None:
    made = list(
        recipe["rounds"].main("tones.py", "out", "seed=3", rounds="2", share="0.25", q="0.01")
    )
    assert made == [Path("out", str(number), "run", "best") for number in range(3)]
    first = sk.build(sk.load(made[0]).config, 3)
    initial = torch.cat([p.detach().flatten() for p in first.parameters() if p.ndim > 1])
    before = torch.zeros_like(initial, dtype=torch.bool)
    for number in range(3):
        start, trained = (weights(f"out/{number}/{part}") for part in ("start", "run/best"))
        zero = start == 0
        assert float(zero.double().mean()) == pytest.approx(1 - 0.75**number, abs=0.01)
        assert zero[before].all()
        assert torch.equal(start, initial * ~zero)
        assert torch.equal(trained == 0, zero)
        assert not torch.equal(trained, start)
        before = zero


def test_the_same_command_goes_on(recipe: dict[str, ModuleType]) -> None:
    rounds = recipe["rounds"].main
    list(rounds("tones.py", "out", rounds="1", q="0.01"))
    file = Path("out/1/run/best/model.safetensors")
    written = file.read_bytes()
    assert len(list(rounds("tones.py", "out", rounds="2", q="0.01"))) == 3
    assert file.read_bytes() == written


def test_a_setting_that_does_not_exist_is_an_error(recipe: dict[str, ModuleType]) -> None:
    with pytest.raises(ConfigError, match="stepz"):
        list(recipe["rounds"].main("tones.py", "out", "stepz=3"))


def test_it_prints_the_time_of_a_step_and_the_weights(
    recipe: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe["steps"], "ROUNDS", 1)
    list(recipe["rounds"].main("tones.py", "out", rounds="0"))
    (line,) = recipe["steps"].main("out/0/run/best")
    count = sum(p.count_nonzero() for p in sk.load("out/0/run/best").parameters())
    assert line.endswith(f"{count:,} weights that are not 0: out/0/run/best")
    assert float(line.partition(" us")[0]) > 0
