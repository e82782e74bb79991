"""Where there is speech, in each format."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

import speechkit as sk
from speechkit.vad import PostProcessing

from .conftest import BLOCKS, Cli

WRITTEN = {
    "json": '{"audio_filepath": "low.wav", "segments": [[0.0, 0.5]]}\n',
    "rttm": "SPEAKER low 1 0.000 0.500 <NA> <NA> speech <NA> <NA>\n",
    "csv": 'audio_filepath,start_s,end_s\n"low.wav",0.000,0.500\n',
    "srt": "1\n00:00:00,000 --> 00:00:00,500\nspeech\n\n",
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
    ended = cli("vad", low, low, "--model", eager, "--format", "srt")
    assert (ended.code, ended.err) == (
        1,
        "error: srt holds one file and was given 2; write one at a time\n",
    )
    ended = cli("vad", low, "--model", models / "words")
    assert ended.code == 1
    assert ended.err.startswith("error: this matchboxnet cannot detect; use sk.classify")
    ended = cli("vad", low, "--format", "xml")
    assert ended.code == 2
    assert "'xml' is not one of 'text', 'json', 'rttm'" in ended.err
