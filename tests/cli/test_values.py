"""Values that skip typer's conversion are those that it would give."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from speechkit.card import bundled_folders
from speechkit.cli.extension import COMMANDS, OwnCommands, UsageError
from speechkit.cli.main import app
from speechkit.cli.vad import vad

from .conftest import Cli

LINES = [
    ["a.wav"],
    ["a.wav", "-"],
    ["a.wav", "--model", "digits", "--onset", "0.5", "--format", "rttm", "--json"],
    ["a.wav", "--out", "folder", "--channel", "left", "--raw", "s16le", "--rate", "8000"],
]


def parsed(command: Any, line: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = command.make_context("vad", list(line)).params
    return values


def converted() -> Any:
    """The command as typer makes it."""
    cli = typer.Typer()
    cli.command("vad")(vad)
    return typer.main.get_group(cli).commands["vad"]


@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_a_command_gets_the_values_that_typer_gives(line: list[str]) -> None:
    own, typers = parsed(OwnCommands()["vad"], line), parsed(converted(), line)
    assert own == typers
    assert {name: type(value) for name, value in own.items()} == {
        name: type(value) for name, value in typers.items()
    }
    assert all(type(path) is type(Path()) for path in own["audio"])


@pytest.mark.parametrize(
    "line", [[], ["a.wav", "--onset", "much"], ["a.wav", "--channel", "x"], ["a.wav", "--model"]]
)
def test_a_wrong_value_is_refused_as_typer_refuses_it(line: list[str]) -> None:
    messages = []
    for command in (OwnCommands()["vad"], converted()):
        with pytest.raises(UsageError) as caught:
            parsed(command, line)
        messages.append(caught.value.format_message())
    assert messages[0] == messages[1]


def test_every_command_is_made_by_name() -> None:
    commands = typer.main.get_group(app).commands
    assert list(commands) == list(COMMANDS)
    assert [command.name for command in commands.values()] == list(COMMANDS)


def test_a_command_imports_no_other_nor_pydantic_nor_torch() -> None:
    code = """
import sys
from speechkit.cli.main import run
assert run(["vad", "--json", sys.argv[1]]) == 0
others = {"speechkit.cli.train", "speechkit.cli.plugins", "rich.console", "pydantic", "torch"}
sys.exit(str(others & set(sys.modules)) if others & set(sys.modules) else 0)
"""
    clip = next((bundled_folders()[0].parents[1] / "clips").glob("*.flac"))
    done = subprocess.run([sys.executable, "-c", code, clip], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (["vad", "low.wav", "--out", ""], "'--out'"),
        (["vad", "low.wav", "--cut="], "'--cut'"),
        (["vad", ""], "'AUDIO'"),
        (["transcribe", "low.wav", "--lm", ""], "'--lm'"),
        (["classify", "low.wav", "--model", ""], "'--model'"),
        (["export", "digits", "--audio", ""], "'--audio'"),
    ],
)
def test_an_empty_value_is_refused_and_named(cli: Cli, line: list[str], name: str) -> None:
    ended = cli(*line)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert f"{name}: it is empty; give a value, or leave it out" in ended.err
