"""Starting quickly, ending clearly."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer

import speechkit as sk
from speechkit.cli.main import reason
from speechkit.limits import MAX_MESSAGE_CHARACTERS
from speechkit.plugins import registry

from .conftest import Cli, Ended


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


@pytest.mark.parametrize(
    "python", [["-c", "from speechkit.cli.main import main; main()"], ["-m", "speechkit"]]
)
def test_the_command_exits_with_the_code(python: list[str]) -> None:
    command = [sys.executable, *python, "--bogus"]
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
        (
            ["count"],
            "No such command 'count'; a plugin's needs --plugin FILE.py or its package; type",
        ),
        (["info"], "Missing argument 'MODEL'; type: speechkit info --help"),
        (["evaluate", "words"], "Missing option '--manifest'"),
        (["classify", "--threshold", "1", "a.wav"], "No such option: --threshold"),
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


@pytest.fixture
def failing(cli: Cli) -> Iterator[Callable[[Exception], Ended]]:
    """Calls a command that raises an exception."""
    raised: list[Exception] = []

    class Broken:
        @sk.hookimpl
        def speechkit_commands(self, cli: typer.Typer) -> None:
            @cli.command()
            def fail() -> None:
                raise raised[-1]

    plugin = Broken()
    registry().manager.register(plugin)

    def call(error: Exception) -> Ended:
        raised.append(error)
        return cli("fail")

    yield call
    registry().manager.unregister(plugin)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (KeyError("tensors"), "KeyError: 'tensors'; this is a bug"),
        (RecursionError("too deep"), "RecursionError: too deep; this is a bug"),
        (ValueError("x" * 10_000), "SPEECHKIT_TRACEBACK=1"),
        (ValueError("two\nlines \x1b[31m"), "ValueError: two lines \\x1b[31m; this is a bug"),
        (MemoryError(), "there is not enough memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "there is not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "there is not enough memory"),
    ],
)
def test_whatever_ends_a_command_is_one_line(
    failing: Callable[[Exception], Ended], error: Exception, says: str
) -> None:
    ended = failing(error)
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, "", 1)
    assert says in ended.err
    assert len(ended.err) <= MAX_MESSAGE_CHARACTERS + 1
    assert "Traceback" not in ended.err


def test_a_traceback_is_there_on_request(
    failing: Callable[[Exception], Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPEECHKIT_TRACEBACK", "1")
    lines = failing(KeyError("tensors")).err.splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[-1].startswith("error: KeyError: 'tensors'")


NAMES = [b"a\x1b[31m.wav", b"\xff\xe9.wav", b"caf\xe9.wav", b":x: [red].wav"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' names are text")
@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_printed_escaped_and_stops_nothing(
    cli: Cli, models: Path, sounds: Path, tmp_path: Path, name: bytes
) -> None:
    path = tmp_path / os.fsdecode(name)
    path.write_bytes((sounds / "low.wav").read_bytes())
    files = [path, sounds / "low.wav", tmp_path / ("no" + path.name)]
    for form in ((), ("--json",)):
        ended = cli("vad", *files, "--model", models / "speech", *form)
        assert ended.code == 1
        assert "no such file" in ended.err
        assert ended.err.count("\n") == 1
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f]", ended.out + ended.err)
    rows = [json.loads(line) for line in ended.out.splitlines()]
    assert [row["audio_filepath"] for row in rows] == list(map(str, files[:2]))
    shown = cli("vad", *files[:1], "--model", models / "speech").out
    assert (":x: [red].wav" in shown) == (b"red" in name)


def test_a_terminal_of_few_characters_gets_the_others_escaped() -> None:
    code = "from speechkit.cli.output import *; escape_what_cannot_be_encoded(); "
    code += "show({'text': '\u0436\U0001f600\\udcff'}, '', True); say('\u0436')"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"},
    )
    assert ended.returncode == 0, ended.stderr
    shown, words = ended.stdout.splitlines()
    assert json.loads(shown)["text"] == "\u0436\U0001f600\udcff"
    assert words == rb"\u0436"


def test_a_command_that_is_terminated_leaves_nothing_half_written(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def terminate(model: object) -> Iterator[str]:
        yield "\\data\\"
        os.kill(os.getpid(), signal.SIGTERM)
        yield "never"

    monkeypatch.setattr("speechkit.decode.ngram._arpa_lines", terminate)
    (tmp_path / "text").write_text("one two\n")
    before = signal.getsignal(signal.SIGTERM)
    ended = cli("lm", tmp_path / "text", "--out", tmp_path / "lm.arpa")
    assert (ended.code, ended.out) == (128 + signal.SIGTERM, "")
    assert [path.name for path in tmp_path.iterdir()] == ["text"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_full_disk_behind_standard_output_is_told_in_words() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    assert reason(full) == "No space left on device"
    assert reason(OSError("gone")) == "gone"
