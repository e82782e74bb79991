"""Sound files in, an answer for each; and one line for each that cannot be used."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

import speechkit as sk
from speechkit.cli.models import decoder_spec
from speechkit.component import Spec

from .conftest import Cli

KEYS = {
    "words": ("classify", {"label", "score", "scores"}),
    "letters": ("transcribe", {"text", "words", "characters", "duration_s"}),
}


@pytest.mark.parametrize("name", KEYS)
def test_one_answer_for_each_file(cli: Cli, models: Path, sounds: Path, name: str) -> None:
    command, keys = KEYS[name]
    files = [sounds / "low.wav", sounds / "high.wav"]
    ended = cli(command, *files, "--model", models / name, "--json")
    rows = [json.loads(line) for line in ended.out.splitlines()]
    assert ended.code == 0
    assert [row["audio_filepath"] for row in rows] == [str(path) for path in files]
    assert all(set(row) == {"audio_filepath", "channel", *keys} for row in rows)
    ended = cli(command, *files, "--model", models / name)
    assert [line.split(": ")[0] for line in ended.out.splitlines()] == [str(p) for p in files]


@pytest.mark.parametrize(
    ("command", "name"),
    [("transcribe", "an4"), ("classify", "digits"), ("vad", "vad"), ("align", "an4")],
)
def test_the_first_line_on_stderr_says_what_the_model_is_for(
    cli: Cli, sounds: Path, command: str, name: str
) -> None:
    text = ("--text", "five") if command == "align" else (sounds / "text.wav",)
    ended = cli(command, sounds / "low.wav", *text, "--model", name, "--json")
    first, *_ = ended.err.splitlines()
    assert first == f"note: {name} {sk.bundled_models()[name].purpose}"
    assert first not in ended.out


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("empty", "is an empty file; give one with sound"),
        ("nan", "contains NaN or infinity; repair it or leave it out"),
        ("text", "cannot decode"),
        ("absent", "no such file or directory; give an audio file"),
    ],
)
def test_an_unusable_file_gives_one_line_and_the_others_an_answer(
    cli: Cli, models: Path, sounds: Path, name: str, says: str
) -> None:
    files = [sounds / f"{name}.wav", sounds / "low.wav"]
    ended = cli("classify", *files, "--model", models / "words", "--json")
    assert ended.code == 1
    assert says in ended.err
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert [json.loads(x)["audio_filepath"] for x in ended.out.splitlines()] == [str(files[1])]


@pytest.mark.parametrize("name", ["8k", "96k"])
def test_other_sample_rates_are_resampled(cli: Cli, models: Path, sounds: Path, name: str) -> None:
    ended = cli("classify", sounds / f"{name}.wav", "--model", models / "words", "--json")
    assert (ended.code, ended.err) == (0, "")
    assert json.loads(ended.out)["label"] in ("low", "high")


@pytest.mark.filterwarnings("default")
def test_a_file_that_is_cut_short_is_used_with_a_warning(
    cli: Cli, models: Path, sounds: Path
) -> None:
    ended = cli("classify", sounds / "truncated.wav", "--model", models / "words", "--json")
    assert ended.code == 0
    assert ended.err.startswith("warning: ")
    assert ended.err.endswith("is cut short: its end is missing; copy the file again\n")
    assert json.loads(ended.out)["label"] in ("low", "high")


@pytest.mark.filterwarnings("default")
def test_clipped_sound_is_used_with_a_warning(cli: Cli, models: Path, sounds: Path) -> None:
    ended = cli("classify", sounds / "clipped.wav", "--model", models / "words", "--json")
    assert ended.code == 0
    assert json.loads(ended.out)["label"] in ("low", "high")
    assert ended.err.startswith(f"warning: {sounds / 'clipped.wav'} is clipped")
    assert ended.err.count("\n") == 1


def test_a_model_for_something_else_is_one_error(cli: Cli, models: Path, sounds: Path) -> None:
    ended = cli("transcribe", sounds / "low.wav", sounds / "high.wav", "--model", models / "words")
    assert ended.code == 1
    assert ended.err == (
        "error: this matchboxnet cannot transcribe; use sk.classify or `speechkit classify`\n"
    )


def test_a_small_model_gets_one_thread(
    cli: Cli, models: Path, sounds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr("torch.set_num_threads", asked.append)
    cli("classify", sounds / "low.wav", "--model", models / "words")
    assert asked == [1]
    monkeypatch.setattr("speechkit.cli.models.SMALL", 0)
    cli("classify", sounds / "low.wav", "--model", models / "words")
    assert asked == [1]


FORMS = {"text": "txt", "json": "json", "srt": "srt", "vtt": "vtt", "ctm": "ctm"}
FORMS |= {"textgrid": "TextGrid", "audacity": "txt"}


@pytest.mark.parametrize("form", FORMS)
def test_each_format_goes_to_stdout_or_into_a_folder(
    cli: Cli, models: Path, sounds: Path, tmp_path: Path, form: str
) -> None:
    asked = "transcribe", sounds / "low.wav", "--model", models / "letters", "--format", form
    shown = cli(*asked)
    assert (shown.code, shown.err) == (0, "")
    ended = cli(*asked, "--out", tmp_path / "new")
    assert ended == (0, "", "")
    written = (tmp_path / "new" / f"low.{FORMS[form]}").read_text()
    assert shown.out == (f"{sounds / 'low.wav'}: {written}" if form == "text" else written)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [f"low.{FORMS[form]}"]


def test_noise_gives_no_text_with_or_without_the_gate(cli: Cli, tmp_path: Path) -> None:
    noise = 0.03 * np.random.default_rng(0).standard_normal(160000)
    soundfile.write(tmp_path / "noise.wav", noise, 16000)
    asked = "transcribe", tmp_path / "noise.wav", "--json"
    assert json.loads(cli(*asked).out)["text"] == ""
    assert json.loads(cli(*asked, "--no-vad").out)["text"] == ""


def test_json_is_a_format(cli: Cli, models: Path, sounds: Path) -> None:
    asked = "transcribe", sounds / "low.wav", "--model", models / "letters"
    assert cli(*asked, "--json") == cli(*asked, "--format", "json")


def test_a_format_of_one_recording_goes_to_stdout_alone(
    cli: Cli, models: Path, sounds: Path
) -> None:
    asked = "transcribe", sounds / "low.wav", "--model", models / "letters", "--format", "srt"
    ended = cli(*asked, sounds / "high.wav")
    assert (ended.code, ended.out) == (1, "")
    assert "srt holds one recording and was given 2 recordings; write them to --out" in ended.err
    assert (
        "srt holds one recording and was given --channel each"
        in cli(*asked, "--channel", "each").err
    )


def test_a_language_model_or_hotwords_make_a_beam_search(
    cli: Cli, models: Path, sounds: Path, tmp_path: Path
) -> None:
    words = tmp_path / "words, of mine.txt"
    words.write_text("hello\n")
    assert str(decoder_spec("greedy", None, None)) == "greedy"
    assert decoder_spec("greedy", None, words) == Spec("beam", {"hotwords": str(words)})
    assert decoder_spec("beam:beam=4", Path("a.arpa"), None).params == {"beam": 4, "lm": "a.arpa"}
    asked = "transcribe", sounds / "low.wav", "--model", models / "letters"
    assert cli(*asked, "--hotwords", words).code == 0
    ended = cli(*asked, "--lm", tmp_path / "absent.arpa")
    assert (ended.code, ended.err.count("\n")) == (1, 1)


def test_a_transcript_takes_no_file_s_place(
    cli: Cli, models: Path, sounds: Path, tmp_path: Path
) -> None:
    (tmp_path / "low.txt").write_text("what was said")
    ended = cli("transcribe", sounds / "low.wav", "--model", models / "letters", "--out", tmp_path)
    assert ended.code == 1
    assert "low.txt is there already; move it or name another folder" in ended.err
    assert (tmp_path / "low.txt").read_text() == "what was said"


def test_a_decoder_that_is_not_there_is_one_error(cli: Cli, models: Path, sounds: Path) -> None:
    ended = cli(
        "transcribe", sounds / "low.wav", "--model", models / "letters", "--decoder", "gredy"
    )
    assert (ended.code, ended.out) == (1, "")
    assert "Did you mean 'greedy'" in ended.err


@pytest.mark.parametrize("command", ["classify", "vad"])
def test_a_new_line_in_a_name_begins_no_result(
    cli: Cli, models: Path, sounds: Path, tmp_path: Path, command: str
) -> None:
    named = tmp_path / "one\ntwo.wav"
    shutil.copy(sounds / "low.wav", named)
    model = {"classify": models / "words", "vad": models / "speech"}[command]
    printed = cli(command, named, "--model", model).out.splitlines()
    assert printed
    assert all(line.startswith(f"{tmp_path}/one\\ntwo.wav") for line in printed)
