"""A recipe's function, five flags, and nothing left behind by a run that cannot start."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import typer

import speechkit as sk
from speechkit.cli.main import app

from .conftest import Cli

RECIPE = """
from dataclasses import replace
from pathlib import Path
import speechkit as sk
from speechkit.train import Data, Run

HERE = Path(__file__).parent
BLOCKS = (sk.Block(channels=8, kernel=5), sk.Block(channels=8, kernel=1, separable=False))

def base() -> Run:
    net = sk.MatchboxNet(blocks=BLOCKS, labels=("low", "high"))
    data = Data(train=HERE / "train.jsonl", dev=HERE / "train.jsonl")
    return Run(model=net, data=data, steps=2)

def smooth() -> sk.Run:
    return replace(base(), model=replace(base().model, activation="silu"))

def number() -> int:
    return 3

if __name__ == "__main__":
    sk.cli.recipe(globals())
"""

FLAGS = {"--out", "--resume", "--set", "--device", "--dry-run"}


@pytest.fixture
def recipe(tmp_path: Path, sounds: Path) -> Path:
    """A recipe beside a manifest of two tones."""
    rows = [
        {"audio_filepath": str(sounds / f"{name}.wav"), "duration": 0.5, "label": name}
        for name in ("low", "high")
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "run.py"
    path.write_text(RECIPE)
    return path


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return 1 / 0", "recipe.py:base fails: ZeroDivisionError"),
        ("return speechkit.train.Run(init='m')", "the setting init is now start_from"),
    ],
)
def test_a_recipe_that_fails_is_named(cli: Cli, tmp_path: Path, body: str, expected: str) -> None:
    recipe = tmp_path / "recipe.py"
    recipe.write_text(f"import speechkit.train\n\n\ndef base():\n    {body}\n")
    ended = cli("train", recipe)
    assert ended.code == 1
    assert expected in ended.err
    assert ended.err.count("\n") == 1


def test_there_are_five_flags_and_no_more() -> None:
    command = typer.main.get_group(app).commands["train"]
    flags = {name for p in command.params for name in p.opts if name.startswith("--")}
    assert flags - {"--help", "--json"} == FLAGS


def test_a_run_trains_and_leaves_a_model(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ended = cli("train", recipe, "--out", out, "--device", "cpu", "--json")
    assert ended.code == 0
    (last,) = (json.loads(line) for line in ended.out.splitlines())
    assert set(last) == {"out", "n", "accuracy"}
    assert cli("info", out / "best").code == 0
    again = cli("train", recipe, "--out", out)
    assert again.code == 1
    assert "add --resume or choose another --out" in again.err
    more = cli("train", recipe, "--out", out, "--resume", "--set", "steps=3", "--device", "cpu")
    assert more.code == 0
    assert json.loads((out / "run.json").read_text())["steps"] == 3


def test_dry_run_prints_and_checks_and_writes_nothing(cli: Cli, recipe: Path) -> None:
    before = sorted(recipe.parent.iterdir())
    ended = cli("train", f"{recipe}:smooth", "--dry-run", "--set", "optimizer=sgd:lr=0.5")
    assert ended.code == 0
    assert "model.activation=silu" in ended.out.splitlines()
    assert "optimizer=sgd:lr=0.5" in ended.out.splitlines()
    assert "loss cross_entropy, parameters" in ended.out
    assert "train 2, dev 2" in ended.out
    assert [p for p in sorted(recipe.parent.iterdir()) if p.name != "__pycache__"] == before


def test_what_is_printed_can_be_set(cli: Cli, recipe: Path) -> None:
    printed = cli("train", recipe, "--dry-run").out.splitlines()[:-1]
    flags = [word for line in printed for word in ("--set", line)]
    assert cli("train", recipe, "--dry-run", *flags).out.splitlines()[:-1] == printed


def test_the_former_name_of_start_from_is_accepted_with_a_warning(
    cli: Cli, recipe: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = tmp_path / "first"
    assert cli("train", recipe, "--out", first, "--device", "cpu").code == 0
    former, current = (
        cli("train", recipe, "--dry-run", "--set", f"{name}={first / 'best'}")
        for name in ("init", "start_from")
    )
    assert former.out == current.out
    assert f"start_from={first / 'best'}" in current.out.splitlines()
    assert caplog.messages == ["--set init= is now --set start_from=; type that"]


def test_the_net_of_a_model_folder_is_trained_on(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    net = sk.MatchboxNet(
        blocks=(sk.Block(channels=6, kernel=3), sk.Block(channels=6, kernel=1, separable=False)),
        labels=("low", "high"),
        activation="silu",
    )
    sk.save(sk.build(net, 3), made)
    refused = cli("train", recipe, "--out", tmp_path / "a", "--set", f"start_from={made}")
    assert f"such as that one's: --set model={made}" in refused.err
    given = "--set", f"model={made}", "--set", f"start_from={made}", "--set", "model.dropout=0.1"
    ended = cli("train", recipe, "--out", tmp_path / "b", "--device", "cpu", *given)
    assert ended.code == 0, ended.err
    trained = sk.load(tmp_path / "b" / "last")
    assert trained.config == replace(net, dropout=0.1)
    unknown = cli("train", recipe, "--dry-run", "--set", "model=nowhere")
    assert unknown.code == 1
    assert "nowhere" in unknown.err


def test_a_plugin_beside_the_recipe(cli: Cli, recipe: Path) -> None:
    plugin = recipe.with_name("wavy.py")
    plugin.write_text(
        "import speechkit as sk, torch\n"
        "class Sine(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x.sin()\n"
        "@sk.hookimpl\n"
        "def speechkit_activations():\n"
        "    make = lambda channels: Sine()\n"
        "    return [sk.Component(name='sine', factory=make, summary='Sine')]\n"
    )
    command = [sys.executable, recipe, "--plugin", plugin, "--dry-run", "--json"]
    ended = subprocess.run(
        [*map(str, command), "--set", "model.activation=sine"], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    first, last = (json.loads(line) for line in ended.stdout.splitlines())
    assert first["config"]["model"]["activation"]["name"] == "sine"
    assert last["train"] == 2


def test_a_recipe_is_a_script_with_the_same_flags(recipe: Path) -> None:
    command = [sys.executable, str(recipe), "smooth", "--dry-run", "--set", "steps=7"]
    ended = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert ended.returncode == 0, ended.stderr
    assert {"steps=7", "model.activation=silu"} <= set(ended.stdout.splitlines())


@pytest.mark.parametrize(
    ("function", "flags", "says"),
    [
        (":swish", [], "has no run 'swish'. Known: base, smooth"),
        (":number", [], "gives int; return a speechkit.Run"),
        ("", ["--set", "stesp=3"], "no 'stesp' there. Did you mean 'steps'?"),
        ("", ["--set", "steps=many"], "--set: steps"),
        ("", ["--set", "steps"], "write path=value"),
        ("", ["--set", "model.activation=rleu"], "no activation named 'rleu'. Did you mean 'relu'"),
        ("", ["--set", 'model.labels=["low"]'], "no label 'high'"),
        ("", ["--set", "data.dev=absent.jsonl"], "cannot open absent.jsonl"),
        ("", ["--plugin", "absent.py"], "no plugin file absent.py"),
        ("", ["--resume"], "holds no run to resume; leave out --resume"),
        ("", ["--device", "gpx"], "gpx"),
    ],
)
def test_a_run_that_cannot_start_is_one_line_and_leaves_nothing(
    cli: Cli, recipe: Path, function: str, flags: list[str], says: str
) -> None:
    out = recipe.with_name("out")
    ended = cli("train", f"{recipe}{function}", "--out", out, *flags)
    assert ended.code == 1
    assert says in ended.err
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def one() -> 'Run': ...\ndef two() -> 'Run': ...", "has runs one, two; type "),
        ("x = 1", "has runs none; type "),
        ("import no_such_module", "does not import: ModuleNotFoundError"),
        ("def base(:", "does not import: SyntaxError"),
    ],
)
def test_a_recipe_that_names_no_run(cli: Cli, tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "run.py").write_text(text)
    ended = cli("train", tmp_path / "run.py", "--dry-run")
    assert ended.code == 1
    assert says in ended.err
    assert ended.err.count("\n") == 1


def test_a_missing_recipe(cli: Cli, tmp_path: Path) -> None:
    assert "no recipe" in cli("train", tmp_path / "run.py").err
