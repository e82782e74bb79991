"""Recordings first, folders, and names that tell recordings apart."""

import json
import shutil
from pathlib import Path

import pytest

from speechkit.cli.recordings import names_of

from .conftest import Cli


def test_the_model_may_come_first_with_a_hint(cli: Cli, models: Path, sounds: Path) -> None:
    low = sounds / "low.wav"
    expected = cli("classify", low, "--model", models / "words")
    assert (expected.code, expected.err) == (0, "")
    ended = cli("classify", models / "words", low)
    assert ended.out == expected.out
    assert ended.err == (
        f"note: recordings come first now; type: speechkit classify {low} "
        f"--model {models / 'words'}\n"
    )


@pytest.mark.parametrize("command", ["classify", "transcribe", "vad", "align"])
def test_a_model_alone_says_what_is_missing(cli: Cli, command: str) -> None:
    ended = cli(command, "digits")
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, "", 1)
    assert f"digits is a model; give recordings: speechkit {command} AUDIO..." in ended.err


@pytest.mark.parametrize("command", ["classify", "transcribe", "vad"])
def test_every_command_has_a_model_of_its_own(cli: Cli, sounds: Path, command: str) -> None:
    ended = cli(command, sounds / "low.wav", "--json")
    assert ended.code == 0
    assert json.loads(ended.out)["audio_filepath"] == str(sounds / "low.wav")


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/x.wav", "a/y.wav"], ["x", "y"]),
        (["a/x.wav", "b/x.wav", "b/y.wav"], ["a-x", "b-x", "y"]),
        (["a/x.wav", "a/x.mp3"], ["x.wav", "x.mp3"]),
        (["1/a/x.wav", "2/a/x.wav"], ["1-a-x", "2-a-x"]),
        (["a/x.wav", "b/X.wav"], ["a-x", "b-X"]),
        (["a-x.wav", "a/x.wav", "b/x.wav"], ["a-x", "a-x.wav", "b-x"]),
        (["a/x.wav", "A/x.wav"], ["x-1", "x-2"]),
        (["a b.wav", "a_b.wav"], ["a b-1", "a_b-2"]),
    ],
)
def test_names_tell_recordings_apart(paths: list[str], names: list[str]) -> None:
    given = [Path(path) for path in paths]
    found = names_of(given)
    assert [found[path] for path in given] == names
    assert len({"_".join(name.split()).casefold() for name in found.values()}) == len(names)


def test_a_recording_given_twice_is_read_once() -> None:
    assert names_of([Path("x.wav"), Path("x.wav").absolute()]) == {Path("x.wav"): "x"}


@pytest.mark.parametrize("form", ["ctm", "rttm"])
def test_one_stem_in_two_folders_collides_in_no_format(
    cli: Cli, models: Path, sounds: Path, tmp_path: Path, form: str
) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy(sounds / "low.wav", tmp_path / folder / "x.wav")
    files = tmp_path / "a" / "x.wav", tmp_path / "b" / "x.wav"
    command = ("transcribe", "letters", 0) if form == "ctm" else ("vad", "speech", 1)
    asked = command[0], *files, "--model", models / command[1], "--format", form
    fields = [line.split()[command[2]] for line in cli(*asked).out.splitlines()]
    assert set(fields) in ({"a-x", "b-x"}, set())
    assert cli(*asked, "--out", tmp_path / "out").code == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [f"a-x.{form}", f"b-x.{form}"]


@pytest.mark.parametrize("command", ["classify", "transcribe", "vad", "align", "listen"])
def test_help_fits_one_screen_with_an_example(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = cli(command, "--help").out
    assert len(out.splitlines()) <= 40
    assert f"Example: speechkit {command} " in " ".join(out.split())


def test_a_device_that_is_not_there_is_one_error(cli: Cli, models: Path, sounds: Path) -> None:
    for device in ("cuda:99", "gpu"):
        ended = cli("vad", sounds / "low.wav", "--model", models / "speech", "--device", device)
        assert (ended.code, ended.out, ended.err.count("\n")) == (1, "", 1)
        assert ended.err.startswith(f"error: --device {device}: ")
