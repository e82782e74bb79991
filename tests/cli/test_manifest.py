"""Manifests of folders: durations from the sound, labels from names or a table."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from speechkit.data import read_manifest

from .conftest import Cli

NAMES = ("no/no_bob_1.wav", "yes/far/yes_ann_2.flac", "yes/yes_bob_1.wav")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Recordings of 0.25, 0.5 and 0.75 s in folders named by their word."""
    for number, name in enumerate(NAMES, start=1):
        path = tmp_path / "words" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.full(number * 2000, 0.1), 8000)
    (tmp_path / "words" / "notes.txt").write_text("not sound")
    return tmp_path / "words"


def rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_it_prints_each_recording_with_its_duration(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    ended = cli("manifest", "words")
    assert (ended.code, ended.err) == (0, "")
    assert rows(ended.out) == [
        {"audio_filepath": f"words/{name}", "duration": 0.25 * number}
        for number, name in enumerate(NAMES, start=1)
    ]


@pytest.mark.parametrize(
    ("labels_from", "labels"),
    [("folder", ["no", "far", "yes"]), ("stem", ["no", "yes", "yes"])],
)
def test_labels_come_from_names(
    cli: Cli, folder: Path, tmp_path: Path, labels_from: str, labels: list[str]
) -> None:
    out = tmp_path / "lists" / "train.jsonl"
    ended = cli("manifest", folder, "--labels-from", labels_from, "--out", out, "--json")
    assert (ended.code, ended.err) == (0, "")
    found = read_manifest(out)
    assert [u.label for u in found] == labels
    assert [u.audio for u in found] == [folder / name for name in NAMES]
    row = json.loads(ended.out)
    assert row["utterances"] == 3
    assert row["labels"] == sorted(set(labels))
    assert row["hours"] == pytest.approx(1.5 / 3600)


def test_a_table_gives_text_and_speakers(cli: Cli, folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    lines = [
        "audio_filepath,speaker,text,note",
        *(f'{name},bob,"{name}, really",x' for name in NAMES),
    ]
    table.write_text("\n".join(lines), encoding="utf-8-sig")
    ended = cli("manifest", folder, "--labels-from", table, "--out", tmp_path / "m.jsonl")
    assert (ended.code, ended.err) == (0, "")
    found = read_manifest(tmp_path / "m.jsonl")
    assert [(u.text, u.speaker, u.label) for u in found] == [
        (f"{name}, really", "bob", None) for name in NAMES
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("file,label\n", "has the columns file, label; its first line must name audio_filepath"),
        ("", "has the columns none"),
        ("audio_filepath,label\nno/no_bob_1.wav,no\nx.wav,no\n", "table.csv:3: no file"),
        ("audio_filepath,label\n" + "no/no_bob_1.wav,no\n" * 2, "table.csv:3: "),
        ('audio_filepath,label\n"no', "table.csv:2: not CSV: "),
        ("audio_filepath,label\n" + "x" * 200_000, "table.csv:2: not CSV: "),
        ("audio_filepath,label\n\udcff", "table.csv:2: not UTF-8"),
    ],
)
def test_a_table_that_does_not_fit_is_one_line_and_writes_nothing(
    cli: Cli, folder: Path, tmp_path: Path, text: str, says: str
) -> None:
    table, out = tmp_path / "table.csv", tmp_path / "out.jsonl"
    table.write_text(text, encoding="utf-8", errors="surrogateescape")
    ended = cli("manifest", folder, "--labels-from", table, "--out", out)
    assert ended.code == 1
    assert says in ended.err
    assert ended.err.count("\n") == 1
    assert not out.exists()


def test_what_cannot_be_used_is_named_and_the_rest_written(
    cli: Cli, folder: Path, tmp_path: Path
) -> None:
    (folder / "broken.wav").write_text("this is not sound")
    soundfile.write(folder / "yes" / "empty.wav", np.zeros(0), 8000)
    soundfile.write(folder / "loose.wav", np.zeros(800), 8000)
    out = tmp_path / "out.jsonl"
    ended = cli("manifest", folder, "--labels-from", "folder", "--out", out)
    assert ended.code == 1
    assert [line.split(" ")[1] for line in ended.err.splitlines()] == [
        str(folder / name) for name in ("broken.wav", "loose.wav", "yes/empty.wav")
    ]
    assert len(read_manifest(out)) == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--labels-from", "names"], "give folder, stem or the name of a .csv file"),
        (["--dev", "dev.jsonl"], "add --out FILE"),
        (["--labels-from", "missing.csv"], "cannot open missing.csv: No such file"),
    ],
)
def test_a_wrong_option_is_answered_in_one_line(
    cli: Cli, folder: Path, arguments: list[str], says: str
) -> None:
    ended = cli("manifest", folder, *arguments)
    assert ended.code == 1
    assert says in ended.err
    assert ended.err.count("\n") == 1


def test_a_folder_without_sound_is_refused(cli: Cli, tmp_path: Path) -> None:
    ended = cli("manifest", tmp_path)
    assert ended.code == 1
    assert f"no recordings in {tmp_path}; give a folder of" in ended.err


def test_dev_takes_whole_speakers_by_their_hash(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "words"
    folder.mkdir()
    lines = ["audio_filepath,speaker,label"]
    for number in range(60):
        soundfile.write(folder / f"{number}.wav", np.zeros(80), 8000)
        lines.append(f"{number}.wav,speaker {number // 2},word")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    train, dev = tmp_path / "train.jsonl", tmp_path / "dev.jsonl"
    arguments = ["--labels-from", tmp_path / "t.csv", "--out", train, "--dev", dev]
    assert cli("manifest", folder, *arguments).code == 0
    speakers = [{u.speaker for u in read_manifest(path)} for path in (train, dev)]
    assert speakers[0].isdisjoint(speakers[1])
    assert len(read_manifest(train)) + len(read_manifest(dev)) == 60
    assert 2 <= len(read_manifest(dev)) <= 16
    first = dev.read_bytes()
    assert cli("manifest", folder, *arguments).code == 0
    assert dev.read_bytes() == first


def test_a_split_that_leaves_a_part_empty_writes_nothing(
    cli: Cli, folder: Path, tmp_path: Path
) -> None:
    train, dev = tmp_path / "train.jsonl", tmp_path / "dev.jsonl"
    ended = cli("manifest", folder / "no", "--out", train, "--dev", dev)
    assert ended.code == 1
    assert f"none of 1 recordings is for {dev}" in ended.err
    assert not train.exists()
    assert not dev.exists()


@pytest.mark.parametrize("options", [["--out", NAMES[0]], ["--out", "new", "--dev", NAMES[1]]])
def test_a_recording_is_not_written_over(cli: Cli, folder: Path, options: list[str]) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    options = [x if x.startswith("-") else str(folder / x) for x in options]
    ended = cli("manifest", folder, *options)
    assert (ended.code, ended.out) == (1, "")
    assert "is an input; choose another file to write" in ended.err
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_name_that_is_no_text_is_found_again(cli: Cli, folder: Path, tmp_path: Path) -> None:
    odd = folder / os.fsdecode(b"caf\xe9.wav")
    (folder / NAMES[0]).rename(odd)
    out = tmp_path / "all.jsonl"
    assert cli("manifest", folder, "--out", out).code == 0
    assert odd in [utterance.audio for utterance in read_manifest(out)]
