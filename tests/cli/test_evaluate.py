"""Figures as fractions, and one line for a manifest that cannot be used."""

import json
from pathlib import Path

import pytest

from .conftest import Cli

MARKS = {"words": {"accuracy"}, "letters": {"wer", "cer"}, "speech": {"auc"}}


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
