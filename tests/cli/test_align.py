"""A text and its recording: when each word is spoken."""

import json
from pathlib import Path

import pytest

from .conftest import Cli


def test_words_come_with_their_times(cli: Cli, models: Path, sounds: Path) -> None:
    asked = "align", sounds / "low.wav", "--model", models / "letters", "--text", "Hi, you"
    ended = cli(*asked, "--json")
    assert (ended.code, ended.err) == (0, "")
    row = json.loads(ended.out)
    assert [word["text"] for word in row["words"]] == ["hi", "you"]
    assert 0 <= row["words"][0]["start_s"] < row["words"][1]["end_s"] <= row["duration_s"] == 0.5
    assert [line.split()[2] for line in cli(*asked).out.splitlines()] == ["hi", "you"]


@pytest.mark.parametrize("name", ["my text.txt", "text", "hi.txt"])
@pytest.mark.parametrize("content", ["hi you\n", "\ufeffhi\r\n\r\n\tyou", "hi\nyou"])
def test_a_text_file_is_read_whatever_its_name_and_its_lines(
    cli: Cli, models: Path, sounds: Path, tmp_path: Path, name: str, content: str
) -> None:
    file = tmp_path / name
    file.write_text(content, encoding="utf-8", newline="")
    asked = "align", sounds / "low.wav", "--model", models / "letters", "--json"
    ended = cli(*asked, "--text-file", file)
    assert ended == cli(*asked, "--text", "hi you")
    assert ended.code == 0


def test_the_old_order_is_understood_with_a_hint(
    cli: Cli, models: Path, sounds: Path, tmp_path: Path
) -> None:
    file = tmp_path / "a text"
    file.write_text("hi you")
    expected = cli("align", sounds / "low.wav", "--model", models / "letters", "--text", "hi you")
    for text in ("hi you", file):
        ended = cli("align", models / "letters", sounds / "low.wav", text)
        assert ended.out == expected.out
        option = "--text-file" if text == file else "--text"
        assert f"--model {models / 'letters'} {option} '{text}'" in ended.err
        assert ended.err.count("\n") == 1


def test_formats_are_those_of_transcribe(
    cli: Cli, models: Path, sounds: Path, tmp_path: Path
) -> None:
    asked = "align", sounds / "low.wav", "--model", models / "letters", "--text", "hi"
    asked = *asked, "--format", "srt"
    assert cli(*asked, "--out", tmp_path) == (0, "", "")
    assert (tmp_path / "low.srt").read_text() == cli(*asked).out
    assert "hi" in cli(*asked).out


@pytest.mark.parametrize(
    ("model", "text", "says"),
    [
        ("letters", ("--text-file", "text.txt"), "text.txt"),
        ("letters", (), "give one recording and its text"),
        ("letters", ("--text", "hi", "--text-file", "text.txt"), "give one recording and its text"),
        ("letters", ("--text", "hi 5"), "'5', which is no label"),
        ("letters", ("--text", "hi " * 30), "labels do not fit into"),
        ("words", ("--text", "hi"), "this matchboxnet cannot transcribe"),
    ],
)
def test_what_cannot_be_aligned_is_one_error(
    cli: Cli, models: Path, sounds: Path, model: str, text: tuple[str, ...], says: str
) -> None:
    ended = cli("align", sounds / "low.wav", "--model", models / model, *text)
    assert (ended.code, ended.out) == (1, "")
    assert says in ended.err
    assert ended.err.count("\n") == 1


def test_words_that_name_a_file_are_words_with_a_note(
    cli: Cli, models: Path, sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hi").write_text("you")
    asked = "align", sounds / "low.wav", "--model", models / "letters", "--text", "hi"
    ended = cli(*asked)
    assert ended.out.split()[2] == "hi"
    assert ended.err == "note: --text takes the words; for what is in hi type --text-file\n"


def test_a_file_that_is_no_text_is_one_error(cli: Cli, sounds: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"caf\xe9")
    ended = cli("align", sounds / "low.wav", "--text-file", tmp_path / "text")
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, "", 1)
    assert "text:1: not UTF-8" in ended.err


def test_what_a_file_has_that_is_no_label_is_named_with_its_line(
    cli: Cli, models: Path, sounds: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text("hi\n\nhi 5\n")
    ended = cli(
        "align",
        sounds / "low.wav",
        "--text-file",
        tmp_path / "text.txt",
        "--model",
        models / "letters",
    )
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, "", 1)
    assert "text.txt:3: text 'hi 5' has '5'" in ended.err


def test_a_text_longer_than_a_name_of_a_file_is_a_text(
    cli: Cli, models: Path, sounds: Path
) -> None:
    ended = cli("align", sounds / "low.wav", "--model", models / "letters", "--text", "low " * 2000)
    assert ended.code == 1
    assert "labels do not fit into" in ended.err
