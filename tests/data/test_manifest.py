"""Manifests: they survive writing and reading, and a bad line is named with its number."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechkit.data.manifest import (
    KEYS,
    ManifestWarning,
    Utterance,
    read_manifest,
    write_manifest,
)
from speechkit.errors import ManifestError

seconds = st.floats(0.001, 1e5)
file_names = st.text("abc é-_.0", min_size=1, max_size=9).map(lambda name: name + ".wav")


@st.composite
def utterances(draw: st.DrawFn) -> Utterance:
    duration_s = draw(seconds)
    edges = sorted(draw(st.sets(st.floats(0, duration_s), max_size=6)))
    pairs = tuple(zip(edges[::2], edges[1::2], strict=False))
    folders = draw(st.lists(st.sampled_from(["clips", "b c", ".."]), max_size=3))
    return Utterance(
        audio=Path("/data/set").joinpath(*folders, draw(file_names)).resolve(),
        duration_s=duration_s,
        text=draw(st.none() | st.text()),
        label=draw(st.none() | st.text()),
        segments=draw(st.none() | st.just(pairs)),
        offset_s=draw(st.just(0.0) | seconds),
        speaker=draw(st.none() | st.text()),
    )


@given(st.lists(utterances(), min_size=1, max_size=5))
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Utterance]
) -> None:
    path = tmp_path_factory.getbasetemp() / "m" / "train.jsonl"
    write_manifest(path, rows)
    assert read_manifest(path, check_files=False) == rows
    assert [p.name for p in path.parent.iterdir()] == ["train.jsonl"]


def test_paths_are_relative_to_the_manifest(tmp_path: Path) -> None:
    audio = tmp_path / "clips" / "a.wav"
    path = tmp_path / "lists" / "train.jsonl"
    write_manifest(path, [Utterance(audio=audio, duration_s=1.0)])
    assert json.loads(path.read_text()) == {"audio_filepath": "../clips/a.wav", "duration": 1.0}
    assert read_manifest(path, check_files=False)[0].audio == audio


def test_a_failed_write_leaves_the_old_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "train.jsonl"
    write_manifest(path, [Utterance(audio=tmp_path / "a.wav", duration_s=1.0)])
    before = path.read_text()

    def fill_the_disk(part: Path, *_: Any, **__: Any) -> None:
        part.write_bytes(b"{")
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", fill_the_disk)
    with pytest.raises(OSError, match="no space left"):
        write_manifest(path, [Utterance(audio=tmp_path / "b.wav", duration_s=1.0)])
    assert path.read_text() == before


BAD_ROWS: dict[str, dict[str, Any]] = {
    "duration: missing; give seconds": {"duration": None},
    "duration: 'long' is not a number": {"duration": "long"},
    "duration: True is not a number": {"duration": True},
    "it holds nan outside": {"duration": float("nan")},
    "it holds a number outside": {"duration": 10**400},
    "duration: 0 is not positive": {"duration": 0},
    "offset: -1 is negative": {"offset": -1},
    "text: 5 is not a string": {"text": 5},
    r"text: '\\udc80' has half of a character": {"text": "\udc80"},
    "label: 5 is not a string": {"label": 5},
    "audio_filepath: missing": {"audio_filepath": None},
    r"segments: \[3, 2\] is out of order": {"segments": [[3, 2]]},
    r"segments: \[1.5, 2\] is out of order": {"segments": [[1, 2], [1.5, 2]]},
    r"segments: \[1, 9\] is out of order or outside \[0, 3\]": {"segments": [[1, 9]]},
    r"segments: \[1\] is not a \[start, end\]": {"segments": [[1]]},
    "segments: 'all' is not a": {"segments": "all"},
}


@pytest.mark.parametrize("message", BAD_ROWS)
def test_a_bad_row_is_named(tmp_path: Path, message: str) -> None:
    good: dict[str, Any] = {"audio_filepath": "a.wav", "duration": 3.0}
    path = tmp_path / "train.jsonl"
    path.write_text(f"{json.dumps(good)}\n\n{json.dumps(good | BAD_ROWS[message])}\n")
    with pytest.raises(ManifestError, match=rf"^train.jsonl:3: {message}") as caught:
        read_manifest(path, check_files=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"audio_file_path": "a.wav", "duration": 1}', "did you mean 'audio_filepath'"),
        ("{", "not JSON"),
        pytest.param("[" * 100_000, "nested deeper than 64 levels", id="deep"),
        pytest.param('{"duration": ' + "1" * 5000 + "}", "not JSON", id="digits"),
        ('{"duration": 1, "duration": 2}', "it has the key 'duration' twice"),
        ("[1]", "not a JSON object"),
        ('{"audio_filepath": "a.wav", "duration": 1}', "audio_filepath: no file .*a.wav"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "dev.jsonl").write_text(line)
    with pytest.raises(ManifestError, match=rf"^dev.jsonl:1: .*{message}"):
        read_manifest(tmp_path / "dev.jsonl")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"Audio_filepath": "a.wav", "duration": 1}', "Audio_filepath: .* 'audio_filepath'"),
        ('{"audio_filepath": "a.wav", "durations": 1}', "durations: .* did you mean 'duration'"),
    ],
)
def test_a_required_key_that_is_misspelt_is_an_error(
    tmp_path: Path, line: str, message: str
) -> None:
    (tmp_path / "m.jsonl").write_text(line)
    with pytest.raises(ManifestError, match=rf"^m.jsonl:1: {message}"):
        read_manifest(tmp_path / "m.jsonl", check_files=False)


@pytest.mark.parametrize(("given", "meant"), [("phone", "phones"), ("Text", "text")])
def test_another_key_that_is_misspelt_is_one_warning(
    tmp_path: Path, given: str, meant: str
) -> None:
    row = {"audio_filepath": "a.wav", "duration": 1, given: "b"}
    (tmp_path / "m.jsonl").write_text("\n" + f"{json.dumps(row)}\n" * 3)
    with pytest.warns(ManifestWarning) as warned:
        rows = read_manifest(tmp_path / "m.jsonl", check_files=False)
    assert len(rows) == 3
    assert [str(one.message) for one in warned] == [
        f"m.jsonl:2: {given}: no such key, it is ignored; did you mean {meant!r}?"
    ]


def test_an_utterance_knows_its_line(tmp_path: Path) -> None:
    row = {"audio_filepath": "a.wav", "duration": 1}
    (tmp_path / "m.jsonl").write_text("\n" + json.dumps(row))
    (utterance,) = read_manifest(tmp_path / "m.jsonl", check_files=False)
    assert utterance.place == f"m.jsonl:2: {tmp_path / 'a.wav'}"
    assert utterance == Utterance(audio=tmp_path / "a.wav", duration_s=1.0)


def test_other_keys_are_ignored(tmp_path: Path) -> None:
    row = {"audio_filepath": "a.wav", "duration": 1, "lang": "en", "texts": "b", "text": "a"}
    (tmp_path / "m.jsonl").write_text(json.dumps(row))
    assert read_manifest(tmp_path / "m.jsonl", check_files=False)[0].text == "a"


def test_an_unusable_manifest_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    with pytest.raises(ManifestError, match=r"cannot open .*m.jsonl: No such file"):
        read_manifest(path)
    path.write_text("\n\n")
    with pytest.raises(ManifestError, match=r"m.jsonl has no utterances"):
        read_manifest(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ManifestError, match=r"m.jsonl:1: not UTF-8"):
        read_manifest(path)
    with pytest.raises(ManifestError, match="no utterances to write"):
        write_manifest(path, [])


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\n\r"))
    | st.dictionaries(st.sampled_from(KEYS), st.text() | st.floats() | st.none()).map(json.dumps)
)
def test_any_line_is_an_utterance_or_a_complaint_with_its_number(
    tmp_path_factory: pytest.TempPathFactory, line: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_text(line, encoding="utf-8")
    message = complaint(path)
    assert message is None or message.startswith("any.jsonl:1: ") or "has no utterances" in message


def complaint(path: Path) -> str | None:
    try:
        read_manifest(path, check_files=False)
    except ManifestError as error:
        return str(error)
    return None
