"""Ablation: every cell of a grid with every seed once, and what they reached beside each other."""

import dataclasses
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

import speechkit as sk
from speechkit.data import read_audio, read_manifest
from speechkit.errors import ComponentError, ConfigError
from speechkit.report.ablation import ablation_page, cells, head
from speechkit.train import Data, Run
from speechkit.train.ablation import TIME, ablate, axes

RELU = {"model.activation": ["relu"]}


@pytest.fixture(params=["ctc", "clip"])
def run(nets: dict[str, Any], corpus: Any, request: pytest.FixtureRequest) -> Run:
    data = Data(train=corpus(4, "train"), dev=corpus(3, "dev"), batch_size=2)
    return Run(model=nets[request.param], data=data, steps=2, eval_every=2, save_every=2)


@pytest.mark.parametrize("jobs", [1, 2])
def test_each_cell_is_trained_with_each_seed(run: Run, tmp_path: Path, jobs: int) -> None:
    out, grid = tmp_path / "out", {"model.activation": ["relu", "silu"], "steps": ["1", "2"]}
    trials = list(ablate(run, grid, 2, out, "cpu", jobs))
    assert [tuple(trial.settings.values()) for trial in trials] == [
        ("relu", "1"),
        ("relu", "2"),
        ("silu", "1"),
        ("silu", "2"),
    ]
    assert sorted(path.relative_to(out).as_posix() for path in out.glob("*/*")) == [
        f"model.activation={name},steps={steps}/{seed}"
        for name in ("relu", "silu")
        for steps in (1, 2)
        for seed in (0, 1)
    ]
    for trial in trials:
        assert trial.parameters > 0
        assert trial.macs_per_s > 0
        assert trial.train_s is not None
        assert trial.error == mean(trial.errors)
        assert trial.deviation == stdev(trial.errors)


def test_the_prediction_difference_is_that_of_the_probabilities(run: Run, tmp_path: Path) -> None:
    (trial,) = ablate(run, RELU, 2, tmp_path / "out", "cpu")
    predictions: list[list[Any]] = [[], []]
    for seed, rows in enumerate(predictions):
        model = sk.load(tmp_path / "out" / "model.activation=relu" / str(seed) / "best").eval()
        for utterance in read_manifest(run.data.dev):
            scores = model(read_audio(utterance.audio)[None]).scores
            rows += scores.softmax(-1).flatten(0, -2).tolist()
    differences = [
        sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2
        for p, q in zip(*predictions, strict=True)
    ]
    assert trial.prediction_difference == pytest.approx(mean(differences), abs=1e-4)
    assert 0 < mean(differences) < 1


def test_cells_of_one_folder_are_refused(run: Run, tmp_path: Path) -> None:
    for values in (["relu", "relu"], ["elu:alpha=1", "elu_alpha=1"]):
        with pytest.raises(ConfigError, match="two cells of the grid have the folder"):
            next(ablate(run, {"model.activation": values}, 1, tmp_path / "out", "cpu"))
    assert not (tmp_path / "out").exists()


def test_a_cell_is_compared_on_its_own_dev_set(run: Run, tmp_path: Path, corpus: Any) -> None:
    gone = dataclasses.replace(run, data=dataclasses.replace(run.data, dev=tmp_path / "gone"))
    assert list(ablate(gone, {"data.dev": [str(run.data.dev)]}, 1, tmp_path / "out", "cpu"))


def test_what_is_finished_is_not_trained_again(run: Run, tmp_path: Path) -> None:
    (first,) = ablate(run, RELU, 1, tmp_path, "cpu")
    folder = tmp_path / "model.activation=relu" / "0"
    (weights,) = (folder / "best").glob("*.safetensors")
    before = weights.stat().st_mtime_ns
    assert list(ablate(run, RELU, 1, tmp_path, "cpu")) == [first]
    assert weights.stat().st_mtime_ns == before
    assert first.prediction_difference is first.deviation is None
    (folder / TIME).unlink()
    (again,) = ablate(run, RELU, 1, tmp_path, "cpu")
    assert again == dataclasses.replace(first, train_s=None)
    (folder / TIME).write_text("[" * 100_000)
    with pytest.raises(ConfigError, match=f"{TIME}: it is nested deeper"):
        list(ablate(run, RELU, 1, tmp_path, "cpu"))


def test_a_value_that_does_not_fit_stops_it_before_any_training(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="activatoin"):
        list(ablate(run, {"model.activatoin": ["relu"]}, 1, out))
    with pytest.raises(ConfigError, match="give at least 1 of each"):
        list(ablate(run, {}, 1, out))
    with pytest.raises(ComponentError, match="rellu"):
        list(ablate(run, {"model.activation": ["relu", "rellu"]}, 1, out))
    assert not out.exists()


@pytest.mark.parametrize(
    ("given", "grid"),
    [
        (["activation=relu,silu"], {"model.activation": ["relu", "silu"]}),
        (["steps=1,2", "norm=batch"], {"steps": ["1", "2"], "model.norm": ["batch"]}),
        (["model.norm=batch", "norm=none"], {"model.norm": ["batch", "none"]}),
        (["activation=a:b=1,c=2,d"], {"model.activation": ["a:b=1,c=2", "d"]}),
        ([" activation = a:b=1, c=2, d"], {"model.activation": ["a:b=1, c=2", "d"]}),
        (["lookahead=[1,0],[2,1],3"], {"model.lookahead": ["[1,0]", "[2,1]", "3"]}),
    ],
)
def test_axes_by_hand(run: Run, given: list[str], grid: dict[str, list[str]]) -> None:
    assert axes(run, given) == grid


@pytest.mark.parametrize("text", ["activation", "activation="])
def test_an_axis_without_values_says_what_to_write(run: Run, text: str) -> None:
    with pytest.raises(ConfigError, match="write setting=value,value"):
        axes(run, [text])


def test_the_page_has_a_row_and_a_mark_for_each_cell(run: Run, tmp_path: Path) -> None:
    grid = {"model.activation": ["relu", "silu"]}
    trials = list(ablate(run, grid, 2, tmp_path / "out", "cpu"))
    assert len(head(grid)) == len(cells(trials[0]))
    html = ablation_page("Two <functions>", trials)
    assert "Two &lt;functions&gt;" in html
    assert html.count("<circle") == 4
    for trial in trials:
        assert f"<td>{trial.settings['model.activation']}</td>" in html
        assert f"{trial.error:.3f}" in html
    assert "http" not in html
