"""Starting quickly, ending clearly."""

import subprocess
import sys
from pathlib import Path

import pytest
import typer

import speechkit as sk
from speechkit.plugins import registry

from .conftest import Cli


@pytest.mark.parametrize(
    "code",
    [
        "import speechkit",
        "from speechkit.cli.main import run; assert run(['--help']) == 0",
        "from speechkit.cli.main import run; assert run(['train', '--help']) == 0",
        "from speechkit.cli.main import run; assert run(['--version']) == 0",
    ],
)
def test_starting_imports_no_torch(code: str) -> None:
    check = f"{code}\nimport sys; sys.exit('torch was imported' if 'torch' in sys.modules else 0)"
    ended = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_the_installed_command_exits_with_the_code() -> None:
    command = [sys.executable, "-c", "from speechkit.cli.main import main; main()", "--bogus"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [
        "error: No such option: --bogus; type: speechkit --help",
    ]
    assert ended.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["trian"], "No such command 'trian'. Did you mean 'train'"),
        (["info"], "Missing argument 'MODEL'; type: speechkit info --help"),
        (["evaluate", "words"], "Missing option '--manifest'"),
        (["classify", "--threshold", "1", "words", "a.wav"], "No such option: --threshold"),
        (["plugins"], "Missing command; type: speechkit plugins --help"),
    ],
)
def test_a_wrong_command_is_answered_in_one_line(cli: Cli, arguments: list[str], says: str) -> None:
    ended = cli(*arguments)
    assert ended.code == 2
    assert says in ended.err
    assert ended.err.count("\n") == 1
    assert ended.out == ""


def test_without_a_command_it_prints_help(cli: Cli) -> None:
    ended = cli()
    assert ended.code == 0
    assert "transcribe" in ended.out


def test_a_plugin_adds_a_command(cli: Cli) -> None:
    class Greeter:
        @sk.hookimpl
        def speechkit_commands(self, cli: typer.Typer) -> None:
            @cli.command()
            def greet(name: str) -> None:
                print(f"hello {name}")

    plugin = Greeter()
    registry().manager.register(plugin)
    try:
        assert cli("greet", "you").out == "hello you\n"
        assert "greet" in cli("--help").out
    finally:
        registry().manager.unregister(plugin)


def test_a_file_system_error_is_one_line(cli: Cli, models: Path, tmp_path: Path) -> None:
    ended = cli("evaluate", models / "words", "--manifest", tmp_path)
    assert ended.code == 1
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
