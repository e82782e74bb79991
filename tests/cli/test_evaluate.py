"""Figures as fractions, and one line for a manifest that cannot be used."""

import json
import shutil
from pathlib import Path

import pytest

import speechkit as sk
from speechkit.card import read_card
from speechkit.report.recognition import Recognized

from .conftest import Cli

COUNTS = {"words", "substitutions", "deletions", "insertions"}
MARKS = {
    "words": {"accuracy"},
    "letters": {"wer", "cer", "rtf", "calibration_error"} | COUNTS,
    "speech": {"auc"},
}


def manifest(folder: Path, sounds: Path, **fields: object) -> Path:
    rows = []
    for name in ("low", "high"):
        row = {"audio_filepath": str(sounds / f"{name}.wav"), "duration": 0.5, "label": name}
        rows.append({**row, "text": name, "segments": [[0.1, 0.3]], **fields})
    path = folder / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", MARKS)
def test_json_ends_with_n_and_fractions(
    cli: Cli, models: Path, sounds: Path, tmp_path: Path, name: str
) -> None:
    path = manifest(tmp_path, sounds)
    ended = cli("evaluate", models / name, "--manifest", path, "--json")
    figures = json.loads(ended.out.splitlines()[-1])
    assert ended.code == 0
    assert set(figures) == {"n"} | MARKS[name]
    assert figures["n"] == 2
    assert "2 utterances" in cli("evaluate", models / name, "--manifest", path).out


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"audio_filepath": "absent.wav"}, "test.jsonl:1: audio_filepath: no file"),
        ({"label": "hgih"}, "no label 'hgih'. Did you mean 'high'?"),
        ({"duration": "long"}, "test.jsonl:1: duration: 'long' is not a number"),
        ({"duration": 7}, "ends at 0.5 s, before 7 s"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(
    cli: Cli, models: Path, sounds: Path, tmp_path: Path, fields: dict[str, object], says: str
) -> None:
    path = manifest(tmp_path, sounds, **fields)
    ended = cli("evaluate", models / "words", "--manifest", path, "--json")
    assert ended.code == 1
    assert says in ended.err
    assert ended.err.count("\n") == 1
    assert ended.out == ""


@pytest.mark.parametrize("name", MARKS)
def test_a_report_is_one_page_that_needs_nothing_else(
    cli: Cli, models: Path, sounds: Path, tmp_path: Path, name: str
) -> None:
    page, path = tmp_path / "new" / "page.html", manifest(tmp_path, sounds)
    ended = cli("evaluate", models / name, "--manifest", path, "--report", page, "--json")
    assert (ended.code, ended.err) == (0, "")
    html = page.read_text()
    assert html.startswith("<!doctype html>")
    assert not any(word in html for word in ("http:", "https:", "src=", "<script", "<link"))
    figures = json.loads(ended.out)
    assert all(f"<td>{figure}</td>" in html for figure in figures)


def test_a_report_on_a_manifest_that_cannot_be_used_is_not_begun(
    cli: Cli, models: Path, sounds: Path, tmp_path: Path
) -> None:
    path = manifest(tmp_path, sounds, audio_filepath="absent.wav")
    page = tmp_path / "page.html"
    assert cli("evaluate", models / "words", "--manifest", path, "--report", page).code == 1
    assert not page.exists()


@pytest.mark.parametrize("decoder", ["greedy", "beam:beam=4"])
def test_streaming_gives_the_same_text_and_latencies(
    cli: Cli, models: Path, sounds: Path, tmp_path: Path, decoder: str
) -> None:
    path = manifest(tmp_path, sounds)
    asked = "evaluate", models / "letters", "--manifest", path, "--decoder", decoder, "--json"
    whole, streamed = (json.loads(cli(*asked, *more).out) for more in ((), ("--streaming",)))
    assert all(streamed[key] == whole[key] for key in COUNTS | {"n", "wer", "cer"})
    assert streamed["final_latency_s"] >= 0


def test_streaming_is_for_recognition(cli: Cli, models: Path, sounds: Path, tmp_path: Path) -> None:
    path = manifest(tmp_path, sounds)
    ended = cli("evaluate", models / "words", "--manifest", path, "--streaming")
    assert ended.code == 1
    assert "leave them out for a matchboxnet" in ended.err


def test_calibrate_saves_a_model_with_the_fit(
    cli: Cli, models: Path, sounds: Path, tmp_path: Path
) -> None:
    path, new = manifest(tmp_path, sounds), tmp_path / "new"
    ended = cli("calibrate", models / "letters", "--manifest", path, "--out", new, "--json")
    assert ended.code == 0
    row = json.loads(ended.out)
    assert (
        json.loads((new / "config.json").read_text())["config"]["confidence"] == row["confidence"]
    )
    for name, key in ((models / "letters", "calibration_error_before"), (new, "calibration_error")):
        figures = json.loads(cli("evaluate", name, "--manifest", path, "--json").out)
        assert figures["calibration_error"] == pytest.approx(row[key], abs=1e-3)


def test_calibrate_keeps_the_card(cli: Cli, models: Path, sounds: Path, tmp_path: Path) -> None:
    path, old, new = manifest(tmp_path, sounds), tmp_path / "old", tmp_path / "new"
    card = sk.ModelCard(purpose="reads letters")
    sk.save(sk.load(models / "letters"), old, card)
    assert cli("calibrate", old, "--manifest", path, "--out", new).code == 0
    assert read_card(new) == card


def test_calibrate_is_for_recognition(cli: Cli, models: Path, sounds: Path, tmp_path: Path) -> None:
    path, new = manifest(tmp_path, sounds), tmp_path / "new"
    ended = cli("calibrate", models / "words", "--manifest", path, "--out", new)
    assert ended.code == 1
    assert not new.exists()


def test_calibrate_without_wrong_words_keeps_the_slope_and_warns(
    cli: Cli, models: Path, sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [0.9, 0.8, 0.4], [True, True, True]
    monkeypatch.setattr(Recognized, "scored_words", lambda self: words)
    path, new = manifest(tmp_path, sounds), tmp_path / "new"
    ended = cli("calibrate", models / "letters", "--manifest", path, "--out", new, "--json")
    assert ended.code == 0
    assert json.loads(ended.out)["confidence"][0] == 1
    assert "all 3 words of" in ended.err
    assert ended.err.count("\n") == 1


def test_calibrate_without_a_word_writes_no_model(
    cli: Cli, models: Path, sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Recognized, "scored_words", lambda self: ([], []))
    path, new = manifest(tmp_path, sounds), tmp_path / "new"
    ended = cli("calibrate", models / "letters", "--manifest", path, "--out", new)
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert not new.exists()


@pytest.mark.parametrize("name", ["low.wav", "words/config.json", "words.txt"])
def test_a_report_is_not_written_over_what_is_read(
    cli: Cli, models: Path, sounds: Path, tmp_path: Path, name: str
) -> None:
    for folder in (models / "words", sounds):
        shutil.copytree(folder, tmp_path / folder.name)
    (tmp_path / "words.txt").write_text("low")
    copies = tmp_path / sounds.name
    report = copies / name if name == "low.wav" else tmp_path / name
    before = report.read_bytes()
    path = manifest(tmp_path, copies)
    hotwords = ["--hotwords", tmp_path / "words.txt"]
    ended = cli("evaluate", tmp_path / "words", "--manifest", path, "--report", report, *hotwords)
    assert ended.code == 1
    assert "is an input; choose another file to write" in ended.err
    assert report.read_bytes() == before
