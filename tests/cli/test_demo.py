"""The demo on a tiny model and two tones, and without anything bundled."""

import json
from pathlib import Path

import pytest

from speechkit.cli import demo

from .conftest import Cli


@pytest.fixture
def bundle(models: Path, sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    clips = tmp_path / "clips.jsonl"
    rows = [
        {"audio_filepath": str(sounds / f"{name}.wav"), "duration": 0.5, "label": name}
        for name in ("low", "high")
    ]
    clips.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(demo, "CLIPS", clips)
    monkeypatch.setattr(demo, "MODEL", str(models / "words"))
    return clips


def test_streamed_and_offline_scores_agree(cli: Cli, bundle: Path) -> None:
    ended = cli("demo", "--json")
    rows = [json.loads(line) for line in ended.out.splitlines()]
    assert ended.code == 0
    assert [row["label"] for row in rows] == ["low", "high"]
    assert all(row["difference"] < 1e-4 for row in rows)
    assert all(row["whole_label"] == row["streamed_label"] for row in rows)


def test_it_reads_well(cli: Cli, bundle: Path) -> None:
    printed = cli("demo").out
    assert "of 2 labelled rightly" in printed
    assert "low.wav" in printed


def test_nothing_bundled_is_one_line(
    cli: Cli, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "MODEL", "numerals")
    assert "no model folder 'numerals'" in cli("demo").err
    bundle.unlink()
    ended = cli("demo")
    assert ended.code == 1
    assert ended.err.startswith("error: no bundled clips at ")
