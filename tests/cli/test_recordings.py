"""Recordings first, folders, and names that tell recordings apart."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechkit.cli.recordings import names_of

from .conftest import Cli, tone


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


def test_a_folder_is_walked_and_its_errors_come_last(
    cli: Cli, models: Path, sounds: Path, tmp_path: Path
) -> None:
    (tmp_path / "b").mkdir()
    for name in ("b/x.wav", "a.wav", "c.WAV"):
        shutil.copy(sounds / "low.wav", tmp_path / name)
    (tmp_path / "aa.wav").write_text("no sound")
    (tmp_path / "notes.txt").write_text("no sound either")
    ended = cli("vad", tmp_path, "--model", models / "speech", "--json")
    found = [json.loads(line)["audio_filepath"] for line in ended.out.splitlines()]
    assert found == [str(tmp_path / name) for name in ("a.wav", "b/x.wav", "c.WAV")]
    assert ended.code == 1
    assert ended.err.startswith(f"error: cannot decode {tmp_path / 'aa.wav'}")
    assert ended.err.count("\n") == 1
    out = tmp_path / "out"
    cli("vad", tmp_path, "--model", models / "speech", "--format", "rttm", "--out", out)
    assert sorted(path.name for path in out.iterdir()) == ["a.rttm", "c.rttm", "x.rttm"]


def test_a_folder_without_sound_is_one_error(cli: Cli, tmp_path: Path) -> None:
    ended = cli("vad", tmp_path)
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, "", 1)
    assert f"no recordings in {tmp_path}" in ended.err


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
def test_names_distinguish_recordings(paths: list[str], names: list[str]) -> None:
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


Put = Callable[[bytes], None]
VERBS = {
    "vad": ("--model", "speech", "--frames"),
    "classify": ("--model", "words", "--json"),
    "transcribe": ("--model", "letters", "--json"),
    "align": ("--model", "letters", "--json", "--text", "hi"),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("form", ["wav", "s16le", "f32le"])
def test_standard_input_gives_what_a_file_gives(
    cli: Cli, models: Path, tmp_path: Path, pipe: Put, verb: str, form: str
) -> None:
    file, samples = tmp_path / "call.wav", (32768 * tone(300)).astype(np.int16)
    soundfile.write(file, samples, 16000)
    option, model, *flags = VERBS[verb]
    asked = option, models / model, *flags
    alone = cli(verb, file, *asked)
    bare = {
        "wav": file.read_bytes(),
        "s16le": samples.tobytes(),
        "f32le": (samples / np.float32(32768)).astype("<f4").tobytes(),
    }
    pipe(bare[form])
    ended = cli(verb, "-", *asked, *(() if form == "wav" else ("--raw", form)))
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.replace('"audio_filepath": "-"', f'"audio_filepath": "{file}"') == alone.out


def test_raw_samples_of_a_call_are_two_timelines_by_their_rate(
    cli: Cli, models: Path, tmp_path: Path, pipe: Put
) -> None:
    both = (32768 * np.stack([tone(300, 8000), np.zeros(4000)], axis=1)).astype(np.int16)
    soundfile.write(tmp_path / "call.wav", both, 8000)
    asked = "--model", models / "speech", "--channel", "each", "--json"
    expected = [json.loads(x) for x in cli("vad", tmp_path / "call.wav", *asked).out.splitlines()]
    raw = "--raw", "s16le", "--rate", "8000", "--channels", "2"
    for data, flags in ((both.tobytes(), raw), ((tmp_path / "call.wav").read_bytes(), ())):
        pipe(data)
        ended = cli("vad", "-", *asked, *flags)
        assert (ended.code, ended.err) == (0, "")
        rows = [json.loads(x) for x in ended.out.splitlines()]
        assert rows == [{**row, "audio_filepath": "-"} for row in expected]
    (tmp_path / "call.raw").write_bytes(both.tobytes())
    rows = [json.loads(x) for x in cli("vad", tmp_path / "call.raw", *asked, *raw).out.splitlines()]
    assert [row["segments"] for row in rows] == [row["segments"] for row in expected]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ((), "begins with no WAV header"),
        (("--rate", "8000"), "describe raw samples; give --raw s16le or f32le"),
        (("--raw", "mp3"), "'mp3' is not one of 's16le', 'f32le'"),
        (("--raw", "s16le", "--rate", "5"), "is at 5 Hz"),
        (("--raw", "s16le", "--rate", "0"), "is at 0 Hz"),
        (("--raw", "s16le", "--channels", "0"), "has 0 channels"),
        (("--raw", "s16le"), "ends within a frame"),
        (("--raw", "s16le", "--channel", "each", "--channels", "99"), "has 99 channels"),
    ],
)
def test_standard_input_that_is_no_sound_is_one_line(
    cli: Cli, models: Path, pipe: Put, flags: tuple[str, ...], says: str
) -> None:
    pipe(b"x" * 30001)
    ended = cli("vad", "-", "--model", models / "speech", *flags)
    assert ended.code > 0
    assert (ended.out, ended.err.count("\n")) == ("", 1)
    assert says in ended.err


def test_what_is_kept_of_standard_input_has_a_limit(
    cli: Cli, models: Path, pipe: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("speechkit.cli.recordings.MAX_KEPT_BYTES", 20000)
    asked = "vad", "-", "--model", models / "speech", "--raw", "s16le", "--channel"
    pipe(bytes(20002))
    ended = cli(*asked, "each")
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, "", 1)
    assert "standard input has more than 20,000 bytes" in ended.err
    pipe(bytes(20002))
    assert cli(*asked, "mix").code == 0
