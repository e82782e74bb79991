"""`speechkit probe` prints and stores what probes find, or writes nothing."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from speechkit.component import Component
from speechkit.hookspecs import hookimpl
from speechkit.models import Model
from speechkit.plugins import Registry, using
from speechkit.probes import Examples

from .conftest import Cli

FILES = {"probe.json", "probe.safetensors", "probe.html"}


def shapes(scale: float = 1.0) -> Any:
    def look(model: Model, examples: Examples) -> dict[str, Tensor]:
        six = torch.arange(6.0).view(3, 2)
        return {
            "seed": torch.tensor(examples.seed),
            "share": torch.tensor(scale / 3, dtype=torch.float64),
            "gone": torch.tensor(math.nan),
            "frames": torch.tensor([float(c.lengths.sum()) for _, c in examples]),
            "map": six,
            "row of map": six[0],
            "cube": torch.zeros(2, 2, 2),
        }

    return look


def fail() -> Any:
    return lambda model, examples: {"text": "none"}


@pytest.fixture(autouse=True)
def plugin() -> Iterator[None]:
    listed = [Component(name=f.__name__, factory=f, summary="One") for f in (shapes, fail)]
    registry = Registry({"SPEECHKIT_PLUGINS": ""})
    registry.add(SimpleNamespace(speechkit_probes=hookimpl(lambda: listed)), "lab")
    with using(registry):
        yield


@pytest.fixture
def tones(tmp_path: Path, sounds: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A manifest of two tones without labels in the folder to work in."""
    rows = [{"audio_filepath": str(sounds / f"{n}.wav"), "duration": 0.5} for n in ("low", "high")]
    (tmp_path / "tones.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "tones.jsonl"


@pytest.mark.parametrize("model", ["words", "letters", "speech"])
def test_numbers_are_printed_and_all_is_stored(
    cli: Cli, models: Path, tones: Path, model: str
) -> None:
    names = ["--with", "shapes", "--with", "lab/shapes:scale=3"]
    arguments = ["probe", models / model, "--manifest", tones, *names, "--seed", "5"]
    ended = cli(*arguments, "--out", "found", "--json")
    assert ended.code == 0, ended.err
    row = json.loads(ended.out)
    assert json.loads(Path("found/probe.json").read_text()) == row
    assert (row["utterances"], row["seed"]) == (2, 5)
    numbers = row["probes"]["lab/shapes:scale=3"]
    sizes = {"frames": [1], "map": [3, 2], "row of map": [2], "cube": [2, 2, 2]}
    assert numbers == {"seed": 5, "share": 1.0, "gone": None, **sizes}
    assert {path.name for path in Path("found").iterdir()} == FILES
    tensors = load_file("found/probe.safetensors")
    assert tensors["shapes/share"].item() == 1 / 3
    assert tensors["shapes/map"].tolist() == [[0, 1], [2, 3], [4, 5]]
    printed = cli(*arguments, "--out", "found")
    assert "shapes/share" in printed.out
    assert re.search(r"shapes/gone +NaN or infinity", printed.out)
    assert "0.3333" in printed.out
    assert "[3, 2]" in printed.out


def test_the_page_has_a_table_and_plots(cli: Cli, models: Path, tones: Path) -> None:
    arguments = ["probe", models / "words", "--manifest", tones, "--with", "shapes"]
    assert cli(*arguments, "--out", "found").code == 0
    page = Path("found/probe.html").read_text(encoding="utf-8")
    assert "<h2>shapes</h2>" in page
    body = page[page.index("<h1>") : page.index("</html>")]
    parts = ElementTree.fromstring(f"<body>{body}</body>")
    captions = [caption.text for caption in parts.iter("figcaption")]
    assert captions == ["frames", "map [3, 2], from 0 to 5", "row of map"]
    assert "[2, 2, 2]" in page
    assert "nan" in page


def test_two_models_are_compared(cli: Cli, models: Path, tones: Path) -> None:
    arguments = ["probe", models / "words", "--manifest", tones, "--with", "shapes"]
    ended = cli(*arguments, "--compare", models / "words", "--out", "found", "--json")
    assert ended.code == 0, ended.err
    row = json.loads(ended.out)
    assert row["compare"]["probes"] == row["probes"]
    differences = row["compare"]["differences"]["shapes"]
    assert set(differences) == {"seed", "share"}
    assert (differences["share"]["difference"], differences["share"]["low"]) == (0.0, 0.0)
    tensors = load_file("found/probe.safetensors")
    assert torch.equal(tensors["compare/shapes/map"], tensors["shapes/map"])
    page = Path("found/probe.html").read_text(encoding="utf-8")
    assert page.count("map [3, 2], from 0 to 5") == 2
    assert "0.0000 (0.0000 to 0.0000)" in page
    printed = cli(*arguments, "--compare", models / "words", "--out", "found")
    assert re.search(r"shapes/share, difference +0.0000 \(0.0000 to 0.0000\)", printed.out)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--with", "shaps", "--out", "found"], "no probe named 'shaps'. Did you mean 'shapes'?"),
        (["--with", "shapes:size=3", "--out", "found"], "it takes ['scale']"),
        (["--with", "shapes", "--with", "fail", "--out", "found"], "'text' is str;"),
        (["--out", "found"], "--with"),
        (["--with", "shapes"], "--out"),
        (["--with", "shapes", "--out", "tones.jsonl"], "tones.jsonl"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    cli: Cli, models: Path, tones: Path, arguments: list[str], says: str
) -> None:
    ended = cli("probe", models / "words", "--manifest", tones, *arguments)
    assert ended.code in (1, 2)
    assert (ended.out, ended.err.count("\n")) == ("", 1)
    assert says in ended.err
    assert [path.name for path in tones.parent.iterdir()] == ["tones.jsonl"]


def test_a_manifest_is_not_overwritten(cli: Cli, models: Path, tones: Path) -> None:
    Path("found").mkdir()
    tones.rename("found/probe.json")
    ended = cli(
        *("probe", models / "words", "--manifest", "found/probe.json"),
        *("--with", "shapes", "--out", "found"),
    )
    assert ended.code == 1
    assert "is an input; choose another" in ended.err
