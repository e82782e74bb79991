"""Ablation: every value with every seed once, and what they reached beside each other."""

from pathlib import Path
from typing import Any

import pytest

from speechkit.ablation import ablate
from speechkit.errors import ComponentError, ConfigError
from speechkit.train import Data, Run


@pytest.fixture
def run(nets: dict[str, Any], corpus: Any) -> Run:
    data = Data(train=corpus(4, "train"), dev=corpus(3, "dev"), batch_size=2)
    return Run(model=nets["ctc"], data=data, steps=2, eval_every=2, save_every=2)


def test_each_value_is_trained_with_each_seed(run: Run, tmp_path: Path) -> None:
    values = ["relu", "silu"]
    trials = list(ablate(run, "model.activation", values, 2, tmp_path, device="cpu"))
    assert [trial.value for trial in trials] == values
    assert all(len(trial.errors) == 2 for trial in trials)
    assert all(trial.disagreement is not None for trial in trials)
    assert trials[0].parameters == trials[1].parameters > 0
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*")) == [
        "relu/0",
        "relu/1",
        "silu/0",
        "silu/1",
    ]


def test_what_is_finished_is_not_trained_again(run: Run, tmp_path: Path) -> None:
    def trial() -> Any:
        return next(ablate(run, "model.activation", ["relu"], 1, tmp_path, device="cpu"))

    first = trial()
    (weights,) = (tmp_path / "relu" / "0" / "best").glob("*.safetensors")
    before = weights.stat().st_mtime_ns
    assert trial() == first
    assert weights.stat().st_mtime_ns == before
    assert first.disagreement is None


def test_a_value_that_does_not_fit_stops_it_before_any_training(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="activatoin"):
        list(ablate(run, "model.activatoin", ["relu"], 1, tmp_path / "out"))
    with pytest.raises(ConfigError, match="give at least one of each"):
        list(ablate(run, "model.activation", [], 1, tmp_path / "out"))
    with pytest.raises(ComponentError, match="rellu"):
        list(ablate(run, "model.activation", ["relu", "rellu"], 1, tmp_path / "out", device="cpu"))
    assert not (tmp_path / "out").exists()
