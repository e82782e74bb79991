"""Where there is speech, in each format."""

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import soundfile

import speechkit as sk
from speechkit.data import read_audio
from speechkit.rules.vad import PostProcessing

from .conftest import BLOCKS, Cli

WRITTEN = {
    "json": '{"audio_filepath": "low.wav", "channel": "mix", "segments": [[0.0, 0.5]]}\n',
    "rttm": "SPEAKER low 1 0.000 0.500 <NA> <NA> speech <NA> <NA>\n",
    "csv": 'audio_filepath,start_s,end_s,channel\n"low.wav",0.000,0.500,mix\n',
    "srt": "1\n00:00:00,000 --> 00:00:00,500\nspeech\n\n",
    "vtt": "WEBVTT\n\n00:00:00.000 --> 00:00:00.500\nspeech\n\n",
    "audacity": "0.000000\t0.500000\tspeech\n",
    "text": "low.wav: 0.00-0.50 s\n",
}


@pytest.fixture(scope="module")
def eager(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that takes everything for speech."""
    folder = tmp_path_factory.mktemp("eager") / "eager"
    config = sk.MarbleNet(blocks=BLOCKS, frame_level=True)
    config = replace(config, postprocess=PostProcessing(onset=0, offset=0))
    sk.save(sk.build(config), folder)
    return folder


@pytest.mark.parametrize("form", WRITTEN)
def test_each_format_is_what_its_readers_expect(
    cli: Cli, eager: Path, sounds: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.chdir(sounds)
    ended = cli("vad", "low.wav", "--model", eager, "--format", form)
    assert (ended.code, ended.out, ended.err) == (0, WRITTEN[form], "")


def test_json_is_a_flag_too(cli: Cli, eager: Path, sounds: Path) -> None:
    files = [sounds / "low.wav", sounds / "high.wav"]
    ended = cli("vad", *files, "--model", eager, "--json")
    assert [json.loads(x)["audio_filepath"] for x in ended.out.splitlines()] == list(
        map(str, files)
    )


def test_frames_are_one_object_each_on_the_sounds_own_axis(
    cli: Cli, models: Path, sounds: Path
) -> None:
    ended = cli("vad", sounds / "low.wav", "--model", models / "speech", "--frames")
    rows = [json.loads(line) for line in ended.out.splitlines()]
    assert [row["time_s"] for row in rows] == [round(0.02 * i, 6) for i in range(25)]
    assert all(0 <= row["speech"] <= 1 for row in rows)


def test_a_file_that_cannot_be_used_is_one_line(cli: Cli, eager: Path, sounds: Path) -> None:
    ended = cli("vad", sounds / "nan.wav", sounds / "low.wav", "--model", eager, "--json")
    assert ended.code == 1
    assert ended.err.count("\n") == 1
    assert len(ended.out.splitlines()) == 1


def test_a_long_file_with_a_fault_gives_one_line_and_no_answer(
    cli: Cli, eager: Path, tmp_path: Path
) -> None:
    path = tmp_path / "long.wav"
    x = np.zeros(150 * 16000, np.float32)
    x[140 * 16000] = np.nan
    soundfile.write(path, x, 16000, subtype="FLOAT")
    ended = cli("vad", path, "--model", eager, "--frames")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith(f"error: {path} contains NaN or infinity; ")
    assert ended.err.count("\n") == 1


@pytest.mark.filterwarnings("default")
def test_a_long_file_that_is_cut_short_is_used_with_a_warning(
    cli: Cli, eager: Path, tmp_path: Path
) -> None:
    path = tmp_path / "long.wav"
    soundfile.write(path, np.zeros(150 * 16000, np.float32), 16000, subtype="FLOAT")
    path.write_bytes(path.read_bytes()[:-40000])
    ended = cli("vad", path, "--model", eager, "--frames")
    assert (ended.code, ended.out != "") == (0, True)
    assert ended.err == f"warning: {path} is cut short: its end is missing; copy the file again\n"


def test_what_it_cannot_do_is_one_line(cli: Cli, models: Path, eager: Path, sounds: Path) -> None:
    low = sounds / "low.wav"
    ended = cli("vad", low, sounds / "high.wav", "--model", eager, "--format", "srt")
    assert (ended.code, ended.err) == (
        1,
        "error: srt holds one recording and was given 2 recordings; write them to --out DIR\n",
    )
    ended = cli("vad", low, "--model", models / "words")
    assert ended.code == 1
    assert ended.err.startswith("error: this matchboxnet cannot detect; use sk.classify")
    ended = cli("vad", low, "--format", "xml")
    assert ended.code == 2
    assert "'--format': 'xml' is not one of 'text', 'json', 'rttm'" in ended.err


def test_a_stretch_is_a_line(cli: Cli, models: Path, tmp_path: Path) -> None:
    quiet = np.zeros(16000, np.float32)
    soundfile.write(tmp_path / "two.wav", np.tile(np.concatenate([speech(), quiet]), 2), 16000)
    lines = cli("vad", tmp_path / "two.wav").out.splitlines()
    assert len(lines) == 2
    assert all(re.fullmatch(r".*two\.wav: \d\.\d\d-\d\.\d\d s", line) for line in lines)
    soundfile.write(tmp_path / "none.wav", quiet, 16000)
    assert cli("vad", tmp_path / "none.wav").out == f"{tmp_path / 'none.wav'}: no speech\n"


def test_a_textgrid_has_a_tier_of_speech(cli: Cli, eager: Path, sounds: Path) -> None:
    out = cli("vad", sounds / "low.wav", "--model", eager, "--format", "textgrid").out
    assert 'name = "speech"' in out
    assert out.endswith('intervals [1]:\nxmin = 0.000000\nxmax = 0.500000\ntext = "speech"\n')


def test_each_channel_has_a_timeline_of_its_own(cli: Cli, tmp_path: Path) -> None:
    quiet = np.zeros(16000, np.float32)
    left, right = np.concatenate([speech(), quiet]), np.concatenate([quiet, speech()])
    call = tmp_path / "call.wav"
    soundfile.write(call, np.stack([left, right], axis=1), 16000)
    rows = [json.loads(x) for x in cli("vad", call, "--channel", "each", "--json").out.splitlines()]
    assert [row["channel"] for row in rows] == [1, 2]
    for row, alone in zip(rows, (left, right), strict=True):
        soundfile.write(tmp_path / "alone.wav", alone, 16000)
        mono = json.loads(cli("vad", tmp_path / "alone.wav", "--json").out)
        assert row["segments"] == mono["segments"] != []
    lines = cli("vad", call, "--channel", "each", "--format", "rttm").out.splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["SPEAKER", "call", "1"],
        ["SPEAKER", "call", "2"],
    ]
    assert cli("vad", call, "--channel", "right", "--format", "rttm").out == lines[1] + "\n"
    out = tmp_path / "out"
    cli("vad", call, "--channel", "each", "--format", "srt", "--out", out)
    assert sorted(path.name for path in out.iterdir()) == ["call.1.srt", "call.2.srt"]
    ended = cli("vad", call, "--channel", "3")
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, "", 2)
    assert "call.wav has 2 channels, not channel 3" in ended.err
    assert "give mix, left, right, each or a number" in cli("vad", call, "--channel", "up").err


@pytest.mark.parametrize("piped", [False, True])
def test_a_cut_writes_the_stretches_as_they_were(
    cli: Cli, tmp_path: Path, pipe: Callable[[bytes], None], piped: bool
) -> None:
    gap = np.zeros(60000)
    sound = np.concatenate([gap, *[np.repeat(speech(), 2), gap] * 8])
    call = (32768 * np.stack([gap[0] + 0 * sound, sound], axis=1)).astype(np.int16)
    source = tmp_path / "call.wav"
    soundfile.write(source, call, 32000)
    pipe(source.read_bytes())
    asked = "-" if piped else source, "--channel", "right", "--cut", tmp_path / "cut", "--json"
    ended = cli("vad", *asked, "--max-speech", "0.3")
    assert ended.code == 0
    segments = json.loads(ended.out)["segments"]
    files = sorted((tmp_path / "cut").iterdir())
    assert len(files) == len(segments) > 12
    name = "stdin" if piped else "call"
    assert files[0].name == f"{name}_0001_{{:.2f}}-{{:.2f}}.wav".format(*segments[0])
    for file, (start_s, end_s) in zip(files, segments, strict=True):
        samples, rate = soundfile.read(file, dtype="int16")
        assert rate == 32000
        start, end = round(32000 * start_s), round(32000 * end_s)
        np.testing.assert_array_equal(samples, call[start:end, 1])


def test_a_cut_follows_no_link(cli: Cli, eager: Path, sounds: Path, tmp_path: Path) -> None:
    (tmp_path / "low_0001_0.00-0.50.wav").symlink_to(tmp_path / "elsewhere")
    ended = cli("vad", sounds / "low.wav", "--model", eager, "--cut", tmp_path)
    assert (ended.code, ended.out) == (1, "")
    assert "is there already" in ended.err
    assert not (tmp_path / "elsewhere").exists()


def test_a_cut_takes_no_file_s_place(cli: Cli, eager: Path, sounds: Path, tmp_path: Path) -> None:
    mine = tmp_path / "low_0001_0.00-0.50.wav"
    mine.write_text("mine")
    ended = cli("vad", sounds / "low.wav", "--model", eager, "--cut", tmp_path)
    assert (ended.code, ended.out) == (1, "")
    assert ended.err == f"error: {mine} is there already; move it or name another folder\n"
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def speech() -> np.ndarray:
    """A second of a digit and silence."""
    path = Path(str(resources.files("speechkit"))) / "bundled" / "clips" / "0_george_0.flac"
    x = read_audio(path).numpy()[:16000]
    return np.pad(x, (0, 16000 - len(x)))


def test_rules_of_the_shell_bound_and_join_stretches(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    soundfile.write(path, np.tile(speech()[:6000], 60), 16000)

    def segments(*flags: object) -> list[list[float]]:
        ended = cli("vad", path, "--json", *flags)
        assert ended.code == 0
        found: list[list[float]] = json.loads(ended.out)["segments"]
        return found

    free = segments()
    assert max(end - start for start, end in free) > 5
    bounded = segments("--max-speech", 5)
    assert len(bounded) > len(free)
    assert max(end - start for start, end in bounded) <= 5 + 1e-6
    assert len(segments("--min-silence", 10, "--onset", 0.1)) == 1
    expected = sk.load("vad").with_(postprocess={"onset": 0.9, "pad_onset_ms": 50})
    expected = expected.with_(postprocess={"pad_offset_ms": 50, "min_speech_ms": 100})
    own = [[s.start_s, s.end_s] for s in sk.detect(expected, path)]
    assert segments("--onset", 0.9, "--pad", 0.05, "--min-speech", 0.1) == own


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--min-speech", "100"), "--min-speech 100: give seconds from 0 to 10"),
        (("--onset", "0.2", "--offset", "0.5"), "give 0 <= offset <= onset <= 1"),
        (("--onset", "high"), "it should be a valid number"),
        (("--max-speech", "0"), "max_speech_s=0: give seconds from"),
    ],
)
def test_a_rule_that_cannot_be_is_one_line(
    cli: Cli, sounds: Path, flags: tuple[str, ...], says: str
) -> None:
    ended = cli("vad", sounds / "low.wav", *flags)
    assert (ended.out, ended.err.count("\n")) == ("", 1)
    assert says in ended.err


@pytest.mark.parametrize("form", ["json", "rttm", "csv"])
def test_a_name_that_is_no_text_is_written_escaped(
    cli: Cli, eager: Path, sounds: Path, tmp_path: Path, form: str
) -> None:
    odd = tmp_path / os.fsdecode(b"caf\xe9.wav")
    shutil.copy(sounds / "low.wav", odd)
    ended = cli("vad", odd, "--model", eager, "--format", form, "--out", tmp_path / "out")
    assert ended.code == 0
    (written,) = (tmp_path / "out").iterdir()
    assert "caf\\udce9" in written.read_text(encoding="utf-8")


def test_a_full_disk_says_so(
    cli: Cli, eager: Path, sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    ended = cli("vad", sounds / "low.wav", "--model", eager, "--cut", tmp_path / "cut")
    assert ended.code == 1
    assert "No space left on device" in ended.err
    assert "this is a bug" not in ended.err
    assert not list((tmp_path / "cut").glob("*"))


def test_a_recording_that_is_too_short_is_named(
    cli: Cli, eager: Path, sounds: Path, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "one.wav", np.zeros(1), 16000)
    ended = cli("vad", tmp_path / "one.wav", sounds / "low.wav", "--model", eager)
    assert ended.code == 1
    assert f"{tmp_path / 'one.wav'}: 1 samples at 16000 Hz are less than one frame" in ended.err
