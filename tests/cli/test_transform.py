"""`speechkit transform` makes a model like any other, which says what made it, or no file."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import speechkit as sk
from speechkit.card import Score, read_card, read_transforms
from speechkit.component import Component
from speechkit.hookspecs import hookimpl
from speechkit.models import Model
from speechkit.plugins import Registry, using
from speechkit.probes import Examples
from speechkit.transforms import required

from .conftest import Cli

RECIPE = """
import speechkit as sk
from speechkit.train import Data, Run

def base() -> Run:
    net = sk.load("silued").config
    return Run(model=net, data=Data(train="tones.jsonl", dev="tones.jsonl"), steps=1)
"""


def swap(activation: str) -> Any:
    def apply(model: Model, examples: Examples | None) -> tuple[Model, dict[str, Any]]:
        made = sk.build(replace(model.config, activation=activation))
        made.load_state_dict(model.state_dict())
        return made, {"before": str(model.config.activation), "shares": [0.5, 0.25]}

    return apply


def count() -> Any:
    def apply(model: Model, examples: Examples | None) -> tuple[Model, dict[str, Any]]:
        examples = required(examples, "count")
        return model, {"utterances": len(examples.utterances), "seed": examples.seed}

    return apply


def fail() -> Any:
    def apply(model: Model, examples: Examples | None) -> tuple[Model, dict[str, Any]]:
        raise sk.errors.ComponentError("fail: it does not work; try another")

    return apply


@pytest.fixture(autouse=True)
def plugin() -> Iterator[None]:
    listed = [Component(name=f.__name__, factory=f, summary="One") for f in (swap, count, fail)]
    registry = Registry({"SPEECHKIT_PLUGINS": ""})
    plugin = SimpleNamespace(speechkit_transforms=hookimpl(lambda: listed))
    registry.add(plugin, "lab", "1.2")
    with using(registry):
        yield


@pytest.fixture
def tones(tmp_path: Path, sounds: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A manifest of two tones in the folder to work in."""
    rows = [
        {"audio_filepath": str(sounds / f"{name}.wav"), "duration": 0.5, "label": name}
        for name in ("low", "high")
    ]
    (tmp_path / "tones.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "tones.jsonl"


@pytest.mark.parametrize(
    "command",
    [
        "evaluate silued --manifest tones.jsonl",
        "listen --model silued --file low.wav",
        pytest.param("export silued --format torch.export --no-features", marks=pytest.mark.slow),
        "train run.py --set init=silued --device cpu --out run",
    ],
)
def test_other_commands_take_the_new_model(
    cli: Cli, models: Path, sounds: Path, tones: Path, command: str
) -> None:
    ended = cli("transform", models / "words", "silued", "--with", "swap:activation=silu")
    assert ended.code == 0, ended.err
    assert "lab/swap:activation=silu" in ended.out
    Path("run.py").write_text(RECIPE)
    Path("low.wav").symlink_to(sounds / "low.wav")
    ended = cli(*command.split())
    assert ended.code == 0, ended.err


def test_the_report_goes_with_the_model(cli: Cli, models: Path, tones: Path) -> None:
    first = cli("transform", models / "words", "one", "--with", "swap:activation=silu", "--json")
    names = ["--with", "lab/count", "--with", "swap:activation=relu"]
    second = cli("transform", "one", "two", *names, "--manifest", tones, "--seed", "7", "--json")
    row = json.loads(second.out)
    assert row["model"] == "two"
    assert [one["name"] for one in row["transforms"]] == ["lab/count", "lab/swap:activation=relu"]
    assert row["transforms"][0]["report"] == {"utterances": 2, "seed": 7}
    assert row["transforms"][0]["version"] == "1.2"
    stored = json.loads(Path("two/transform.json").read_text())
    assert stored == json.loads(first.out)["transforms"] + row["transforms"]
    assert json.loads(cli("info", "two", "--json").out)["transforms"] == stored
    lines = [line.strip() for line in cli("info", "two").out.splitlines()]
    assert "utterances 2" in lines
    assert "before silu" in lines
    assert "shares [0.5, 0.25]" in lines
    assert "transforms" not in cli("info", models / "words").out


def test_what_a_model_was_made_by_lasts_as_long_as_it_does(
    cli: Cli, models: Path, tones: Path
) -> None:
    assert cli("transform", models / "letters", "one", "--with", "swap:activation=silu").code == 0
    rows = [json.loads(line) | {"text": "hi"} for line in tones.read_text().splitlines()]
    tones.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert cli("calibrate", "one", "--manifest", tones, "--out", "two").code == 0
    assert read_transforms(Path("two")) == read_transforms(Path("one")) != []
    sk.save(sk.load(models / "letters"), "two")
    assert read_transforms(Path("two")) == []


def test_a_card_keeps_all_but_the_scores(cli: Cli, models: Path, tones: Path) -> None:
    card = sk.ModelCard(
        purpose="tells low from high",
        licence="CC0",
        commands=("speechkit train run.py",),
        measured="2026-01-01",
        scores=(Score(name="accuracy", value=1.0),),
    )
    sk.save(sk.load(models / "words"), "words", card)
    assert cli("transform", "words", "new words", "--with", "swap:activation=silu").code == 0
    command = "speechkit transform words 'new words' --with swap:activation=silu"
    expected = replace(card, scores=(), measured="", commands=(*card.commands, command))
    assert read_card(Path("new words")) == expected


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["no", "new", "--with", "count"], "no model folder 'no'"),
        (["words", "new", "--with", "cont"], "no transform named 'cont'. Did you mean 'count'?"),
        (["words", "new", "--with", "count"], "count needs recordings; give --manifest M"),
        (["words", "new", "--with", "count", "--manifest", "no.jsonl"], "no.jsonl"),
        (["words", "new", "--with", "swap:to=relu"], "it takes ['activation']"),
        (["words", "new", "--with", "swap:activation=relo"], "no activation named 'relo'"),
        (["words", "new", "--with", "swap:activation=silu", "--with", "fail"], "it does not work"),
        (["words", "new"], "--with"),
        (["words", "new", "--with", "bias:label=low,by=1e39"], "holds NaN or infinity"),
        (["words", "new", "--with", "count", "--seed", "-1"], "--seed"),
        (["words", "words", "--with", "swap:activation=relu"], "words is an input; choose another"),
        (["words", "other", "--with", "swap:activation=relu"], "is not a model folder; choose"),
        (["words", "mine", "--with", "swap:activation=relu"], "mine holds a model already; choose"),
        (["words", "new", "--with", "swap:activation=relu", "--device", "no"], "--device no"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    cli: Cli, models: Path, tones: Path, arguments: list[str], says: str
) -> None:
    for name in ("words", "mine"):
        sk.save(sk.load(models / "words"), name)
    Path("other").mkdir()
    Path("other/notes.txt").touch()
    before = {path: path.stat().st_mtime_ns for path in tones.parent.rglob("*")}
    ended = cli("transform", *arguments)
    assert ended.code in (1, 2)
    assert ended.out == ""
    assert ended.err.count("\n") == 1
    assert says in ended.err
    assert {path: path.stat().st_mtime_ns for path in tones.parent.rglob("*")} == before


@pytest.mark.parametrize("text", ["{", "{}", '[{"name": "x"}]', '[{"name": 1}]'])
def test_damaged_reports_are_one_line(cli: Cli, models: Path, tones: Path, text: str) -> None:
    sk.save(sk.load(models / "words"), "words")
    Path("words/transform.json").write_text(text)
    ended = cli("info", "words")
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, "", 1)
    assert "transform.json holds no reports of transforms" in ended.err
