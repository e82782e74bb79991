"""A text and its recording: when each word is said."""

import json
from pathlib import Path

import pytest

from .conftest import Cli


def test_words_come_with_their_times(cli: Cli, models: Path, sounds: Path, tmp_path: Path) -> None:
    said = tmp_path / "said.txt"
    said.write_text("Hi you\n")
    asked = "align", models / "letters", sounds / "low.wav"
    ended = cli(*asked, "Hi, you", "--json")
    assert (ended.code, ended.err) == (0, "")
    row = json.loads(ended.out)
    assert [word["text"] for word in row["words"]] == ["hi", "you"]
    assert 0 <= row["words"][0]["start_s"] < row["words"][1]["end_s"] <= row["duration_s"] == 0.5
    assert cli(*asked, said, "--json") == ended
    lines = cli(*asked, said).out.splitlines()
    assert [line.split()[2] for line in lines] == ["hi", "you"]


def test_formats_are_those_of_transcribe(
    cli: Cli, models: Path, sounds: Path, tmp_path: Path
) -> None:
    asked = "align", models / "letters", sounds / "low.wav", "hi", "--format", "srt"
    assert cli(*asked, "--out", tmp_path) == (0, "", "")
    assert (tmp_path / "low.srt").read_text() == cli(*asked).out
    assert "hi" in cli(*asked).out


@pytest.mark.parametrize(
    ("model", "text", "says"),
    [
        ("letters", "said.txt", "said.txt"),
        ("letters", "hi 5", "'5', which is no label"),
        ("letters", "hi " * 30, "labels do not fit into"),
        ("words", "hi", "this matchboxnet cannot transcribe"),
    ],
)
def test_what_cannot_be_aligned_is_one_error(
    cli: Cli, models: Path, sounds: Path, model: str, text: str, says: str
) -> None:
    ended = cli("align", models / model, sounds / "low.wav", text)
    assert (ended.code, ended.out) == (1, "")
    assert says in ended.err
    assert ended.err.count("\n") == 1
