"""Steps one after the other, each done once."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import speechkit as sk
from speechkit.errors import ConfigError, TrainingError
from speechkit.plugins import registry
from speechkit.train import Data, Pipeline, Run
from speechkit.train.pipeline import FILE

Corpus = Callable[..., Path]


class Steps:
    """A pipeline of a call, a run and a transform, with what it did."""

    def __init__(self, folder: Path, run: Run) -> None:
        self.folder, self.run = folder, run
        self.text, self.by = "a", -0.5
        self.fail = False

    def note(self, text: str, out: Path, times: int = 2) -> None:
        if self.fail:
            raise ValueError("no such corpus")
        with out.open("a") as file:
            file.write(text * times)

    def __call__(self, redo: str = "") -> None:
        do = Pipeline(self.folder, redo, device="cpu")
        do.call("prepare", self.note, self.text, self.folder.parent / "notes")
        do.train("base", self.run)
        do.transform("final", self.folder / "base/best", f"bias:by={self.by}")

    @property
    def notes(self) -> str:
        return (self.folder.parent / "notes").read_text()


@pytest.fixture
def run(nets: dict[str, Any], corpus: Corpus) -> Run:
    return Run(
        model=nets["ctc"],
        data=Data(train=corpus(6, "train"), dev=corpus(3, "dev"), batch_size=3),
        steps=4,
        optimizer="adamw:lr=0.01",
        eval_every=4,
        save_every=1,
    )


@pytest.fixture
def steps(tmp_path: Path, run: Run) -> Steps:
    return Steps(tmp_path / "runs", run)


def begun(folder: Path) -> dict[str, bool]:
    return {step["name"]: step["done"] for step in json.loads((folder / FILE).read_text())}


def test_steps_are_done_once(steps: Steps, capsys: pytest.CaptureFixture[str]) -> None:
    steps()
    made = sk.load(steps.folder / "final").head.linear.bias
    torch.testing.assert_close(
        made[-1], sk.load(steps.folder / "base/best").head.linear.bias[-1] - 0.5
    )
    assert begun(steps.folder) == {"prepare": True, "base": True, "final": True}
    assert "pipeline: prepare" in capsys.readouterr().out
    steps()
    assert "pipeline" not in capsys.readouterr().out
    assert steps.notes == "aa"


def test_a_step_that_failed_is_done_again(steps: Steps) -> None:
    steps.fail, steps.text = True, "wrong"
    with pytest.raises(ValueError, match="no such corpus"):
        steps()
    assert begun(steps.folder) == {"prepare": False}
    # what it was given may be put right
    steps.fail, steps.text = False, "b"
    steps()
    assert steps.notes == "bb"


def test_a_run_that_was_stopped_goes_on_bit_by_bit(steps: Steps, tmp_path: Path) -> None:
    class Stop:
        @sk.hookimpl
        def speechkit_run_step(self, step: int) -> None:
            if step == 3:
                raise KeyboardInterrupt

    stop = Stop()
    registry().manager.register(stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            steps()
    finally:
        registry().manager.unregister(stop)
    assert begun(steps.folder) == {"prepare": True, "base": False}
    steps()
    whole = Steps(tmp_path / "whole/runs", steps.run)
    whole.folder.mkdir(parents=True)
    whole()
    ours, theirs = (sk.load(s.folder / "final").state_dict() for s in (steps, whole))
    assert all(torch.equal(x, theirs[name]) for name, x in ours.items())
    assert steps.notes == "aa"


def test_a_setting_of_a_finished_step_cannot_change(steps: Steps) -> None:
    steps()
    steps.run = replace(steps.run, optimizer="adamw:lr=0.02")
    with pytest.raises(ConfigError) as refused:
        steps()
    assert str(refused.value) == (
        f"{steps.folder / FILE}: step base had optimizer.params.lr=0.01, now "
        "optimizer.params.lr=0.02; give another folder, or do it and what follows again: "
        "--redo=base"
    )
    steps(redo="base")
    assert steps.notes == "aa"
    stored = json.loads((steps.folder / "base/run.json").read_text())
    assert stored["optimizer"]["params"]["lr"] == 0.02
    steps.by = 1.0
    with pytest.raises(ConfigError, match=r"final had with\.0\.params\.by=-0.5, now .*=1.0"):
        steps()
    steps.text = "c"
    with pytest.raises(ConfigError, match='prepare had text="a", now text="c"'):
        steps()


def test_settings_that_a_later_version_knows_are_no_change(steps: Steps) -> None:
    steps()
    stored = json.loads((steps.folder / FILE).read_text())
    del stored[1]["settings"]["nodes"]
    (steps.folder / FILE).write_text(json.dumps(stored))
    steps()


def test_other_steps_are_refused(steps: Steps) -> None:
    steps()
    do = Pipeline(steps.folder)
    with pytest.raises(ConfigError, match=r"step 1 was prepare and is base now; .*--redo=prepare"):
        do.train("base", steps.run)
    with pytest.raises(ConfigError, match=r"no step 'bse'\. Did you mean 'base'"):
        steps(redo="bse")


def test_a_folder_of_another_run_is_left_alone(steps: Steps) -> None:
    sk.fit(steps.run, steps.folder / "base", device="cpu")
    with pytest.raises(TrainingError, match="holds a run already"):
        steps()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[{", "is not JSON"),
        ('[{"name": "../x", "settings": {}, "done": true}]', "no name of a step"),
        ('[{"name": "x", "done": true}]', "settings - Field required"),
    ],
)
def test_a_damaged_record_is_one_line(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ConfigError, match=reason) as refused:
        Pipeline(tmp_path, redo="x")
    assert "\n" not in str(refused.value)
