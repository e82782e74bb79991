"""A task in one file, that of docs/tasks.md, works with every command and no change to the core."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from speechkit.plugins import Registry, using

from .conftest import Cli

PAGE = Path(__file__).parents[2] / "docs" / "tasks.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
"""The page's plugin, and the config that it adds later."""
RECIPE = """
import sys
import speechkit as sk
from speechkit.train import Data, Run

DATA = Data(train="tones.jsonl", dev="tones.jsonl")
BLOCKS = (sk.Block(channels=8, kernel=5), sk.Block(channels=8, kernel=1, separable=False))

def base() -> Run:
    frontend = "log_mel:n_mels=16,normalize=running"
    net = sk.MatchboxNet(blocks=BLOCKS, labels=("words",), head="word_count", frontend=frontend)
    return Run(model=net, data=DATA, steps=1)

def own() -> Run:
    return Run(model=sys.modules["words"].CountNet(), data=DATA, steps=1)
"""


@pytest.fixture
def folder(sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the page's plugin, a recipe and a manifest, in a process without plugins."""
    (tmp_path / "words.py").write_text("\n".join(BLOCKS[:2]), "utf-8")
    (tmp_path / "run.py").write_text(RECIPE, "utf-8")
    rows = [
        {"audio_filepath": str(sounds / f"{name}.wav"), "duration": 0.5, "text": text}
        for name, text in (("low", "yes"), ("high", "yes no"))
    ]
    (tmp_path / "tones.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setitem(sys.modules, "words", None)
    del sys.modules["words"]
    monkeypatch.chdir(tmp_path)
    with using(Registry({"SPEECHKIT_PLUGINS": ""})):
        yield tmp_path


def trained(cli: Cli, run: str) -> None:
    ended = cli("train", run, "--plugin", "words.py", "--device", "cpu", "--out", "out", "--json")
    assert ended.code == 0, ended.err
    assert set(json.loads(ended.out.splitlines()[-1])) == {"out", "n", "mean_error"}


def test_a_model_is_trained_judged_and_asked(cli: Cli, folder: Path, sounds: Path) -> None:
    trained(cli, "run.py")
    plugin = ["--plugin", "words.py"]
    ended = cli(
        "evaluate", "out/best", "--manifest", "tones.jsonl", "--report", "r.html", "--json", *plugin
    )
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["n"] == 2
    assert "mean_error" in Path("r.html").read_text("utf-8")
    low, high = sounds / "low.wav", sounds / "high.wav"
    ended = cli("count", low, high, "--model", "out/best", "--json", *plugin)
    assert ended.code == 0, ended.err
    rows = [json.loads(line) for line in ended.out.splitlines()]
    assert [row["audio_filepath"] for row in rows] == [str(low), str(high)]
    assert all(isinstance(row["count"], float) for row in rows)
    assert f"{low}: {rows[0]['count']}\n" == cli("count", low, "--model", "out/best").out
    assert json.loads(cli("info", "out/best", "--json", *plugin).out)["task"] == "word_count"


def test_a_config_of_the_plugins_own_is_read(cli: Cli, folder: Path, sounds: Path) -> None:
    trained(cli, "run.py:own")
    assert json.loads(Path("out/best/config.json").read_text())["plugins"] == {
        "words": {"file": "words.py"}
    }
    low = sounds / "low.wav"
    assert cli("count", low, "--model", "out/best").code == 0
    with using(Registry({"SPEECHKIT_PLUGINS": ""})):
        ended = cli("info", "out/best")
    assert ended.code == 1
    assert "a Python file that is not loaded; add --plugin words.py" in ended.err
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["classify", "low.wav", "--model"], "cannot classify; use `speechkit count`"),
        (["vad", "low.wav", "--model"], "cannot detect; use `speechkit count`"),
        (["listen", "--file", "low.wav", "--model"], "has no events in a stream; use `speechkit"),
        (["evaluate", "--manifest", "tones.jsonl", "--streaming"], "are for recognition; leave"),
        (["calibrate", "--manifest", "tones.jsonl", "--out", "x"], "cannot transcribe; use `spe"),
    ],
)
def test_what_the_task_lacks_is_refused_in_one_line(
    cli: Cli, folder: Path, sounds: Path, command: list[str], says: str
) -> None:
    trained(cli, "run.py")
    ended = cli(*(sounds / word if word == "low.wav" else word for word in command), "out/best")
    assert ended.code == 1
    assert says in ended.err
    assert ended.err.count("\n") == 1


def test_the_help_lists_the_verb(cli: Cli, folder: Path) -> None:
    assert "with the verb count" in cli("--help", "--plugin", "words.py").out


def test_a_task_that_cannot_be_imported_is_a_warning(cli: Cli, folder: Path) -> None:
    text = Path("words.py").read_text().replace("factory=WordCount", 'factory="absent:Task"')
    Path("words.py").write_text(text)
    ended = cli("--plugin", "words.py", "--help")
    assert ended.code == 0
    assert "warning: task words/word_count cannot be loaded from 'absent:Task'" in ended.err


@pytest.mark.parametrize(("verb", "warned"), [("train", True), ("classify", False)])
def test_a_verb_that_is_a_command_already_is_warned_of(
    cli: Cli, folder: Path, verb: str, warned: bool
) -> None:
    plugin = folder / "words.py"
    plugin.write_text(re.sub('verb = ".*"', f'verb = "{verb}"', plugin.read_text("utf-8")), "utf-8")
    ended = cli("--plugin", "words.py", "--help")
    assert ended.code == 0
    assert (f"warning: task words/word_count: {verb} is a command" in ended.err) == warned
