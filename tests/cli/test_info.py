"""The output of `info`, and models that cannot be loaded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import speechkit as sk
from speechkit.card import Score
from speechkit.plans.plan import Plan, load_plan

from .conftest import Cli

KEYS = {
    *("kind", "task", "labels", "sample_rate", "frame_s", "size_bytes"),
    *("parameters", "macs_per_s", "not_counted", "latency_s", "lookahead_s", "receptive_field_s"),
    *("streamable", "why_not_streamable", "card", "in_torch", "nonfinite"),
    *("rules", "transforms"),
}


@pytest.mark.parametrize("name", ["words", "letters", "speech"])
def test_json_holds_every_figure(cli: Cli, models: Path, name: str) -> None:
    row = json.loads(cli("info", models / name, "--json").out)
    assert set(row) == KEYS
    assert row["streamable"] is True
    assert row["parameters"] > 0
    assert row["size_bytes"] > 4 * row["parameters"]


def test_it_reads_well(cli: Cli, models: Path) -> None:
    printed = cli("info", models / "speech").out
    assert "background speech" in printed
    assert "16,000 Hz" in printed


def test_a_bundled_model_shows_its_card(cli: Cli) -> None:
    card = json.loads(cli("info", "an4", "--json").out)["card"]
    assert card["licence"].startswith("CC BY-SA 4.0")
    printed = cli("info", "an4").out
    for text in ("American English", "WER, greedy: 0.087", "It knows the hundred words"):
        assert text in printed


def test_an_interval_is_shown(cli: Cli, models: Path, tmp_path: Path) -> None:
    score = Score(name="accuracy", value=0.9, interval=(0.87, 0.93), on="ten others")
    card = sk.ModelCard(purpose="tells words apart", scores=(score,))
    sk.save(sk.load(models / "words"), tmp_path / "words", card)
    assert "accuracy: 0.9, 95 % CI 0.87 to 0.93 (ten others)" in cli("info", tmp_path / "words").out
    (row,) = json.loads(cli("info", tmp_path / "words", "--json").out)["card"]["scores"]
    assert row["interval"] == [0.87, 0.93]


@pytest.mark.parametrize(
    ("model", "rule"),
    [("vad", "onset 0.7"), ("digits", "hold_ms "), ("an4", "silence_after_s ")],
)
def test_the_thresholds_that_options_change_are_shown(cli: Cli, model: str, rule: str) -> None:
    assert rule in cli("info", model).out
    (rules,) = json.loads(cli("info", model, "--json").out)["rules"].values()
    assert rule.split()[0] in rules


def test_a_plan_shows_what_its_model_shows(cli: Cli, models: Path, tmp_path: Path) -> None:
    file = tmp_path / "speech.safetensors"
    assert cli("export", models / "speech", "--format", "native", "--out", file).code == 0
    row, own = (json.loads(cli("info", x, "--json").out) for x in (file, models / "speech"))
    assert row.pop("size_bytes") == file.stat().st_size
    assert row == {name: value for name, value in own.items() if name != "size_bytes"}
    plan = load_plan(file)
    Plan(plan.about, plan.program, plan.weights).save(file)
    ended = cli("info", file)
    assert ended.code == 1
    assert "was saved without facts; speechkit export MODEL --format native" in ended.err


def test_models_lists_what_is_bundled(cli: Cli) -> None:
    rows = [json.loads(line) for line in cli("models", "--json").out.splitlines()]
    rows = [row for row in rows if row["state"] == "bundled"]
    assert {row["name"] for row in rows} == set(sk.bundled_models())
    assert all(row["domain"] and row["scores"] and row["limits"] for row in rows)
    assert "digits tells which one English digit" in cli("models").out


def without_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["stem.body.0.mixer.weight"]
    save_file(tensors, folder / "model.safetensors")


def cut_short(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])


def edit(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        stored = json.loads((folder / "config.json").read_text())
        change(stored)
        (folder / "config.json").write_text(json.dumps(stored))

    return damage


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (without_a_tensor, "lacks 'stem.body.0.mixer.weight'"),
        (cut_short, "model.safetensors cannot be read"),
        (
            edit(lambda s: s["plugins"].update(acme="1.2")),
            "plugin 'acme' 1.2, which is not installed; it is not one",
        ),
        (
            edit(lambda s: s["config"]["activation"].update(name="rleu")),
            "no activation named 'rleu'. Did you mean 'relu'?",
        ),
        (edit(lambda s: s["config"].update(hop=3)), "hop"),
        (edit(lambda s: s.update(format=9)), "has format 9; this version reads 1"),
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "is not a model description"),
        (
            lambda folder: (folder / "card.json").write_text('{"purpose": "x\\u001b[2J"}'),
            "control character",
        ),
        (shutil.rmtree, "no model folder"),
    ],
)
@pytest.mark.parametrize("command", ["info", "classify"])
def test_a_damaged_model_is_one_line(
    cli: Cli,
    models: Path,
    sounds: Path,
    tmp_path: Path,
    command: str,
    damage: Callable[[Path], None],
    says: str,
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(models / "words", folder)
    damage(folder)
    ended = (
        cli("info", folder)
        if command == "info"
        else cli("classify", sounds / "low.wav", "--model", folder)
    )
    assert ended.code == 1
    assert says in ended.err
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert ended.out == ""


def test_weights_that_are_not_finite_are_shown_when_asked(
    cli: Cli, models: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(models / "words", folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["head.linear.bias"][0] = float("nan")
    save_file(tensors, folder / "model.safetensors")
    refused = cli("info", folder)
    assert refused.code == 1
    assert "'head.linear.bias' holds NaN or infinity" in refused.err
    row = json.loads(cli("info", folder, "--allow-nonfinite", "--json").out)
    assert row["nonfinite"] == ["head.linear.bias"]
    assert "head.linear.bias" in cli("info", folder, "--allow-nonfinite").out


def test_layers_that_a_stream_runs_in_torch_are_named(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = sk.MarbleNet(frame_level=True, size="3x1x64")
    sk.save(sk.build(config), tmp_path / "vad")
    assert json.loads(cli("info", tmp_path / "vad", "--json").out)["in_torch"] == []
    monkeypatch.delattr(sk.nn.BatchNorm, "lower")
    monkeypatch.delattr(sk.nn.BatchNorm, "fuse")
    assert json.loads(cli("info", tmp_path / "vad", "--json").out)["in_torch"] == ["BatchNorm"]
    assert "yes, in torch: BatchNorm" in cli("info", tmp_path / "vad").out
