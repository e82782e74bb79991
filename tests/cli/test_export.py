"""`export` writes a file, or says in one line why not and leaves nothing behind."""

import json
import shutil
from pathlib import Path

import pytest

from .conftest import Cli


def test_it_names_the_file_after_the_model_and_says_how_close_it_is(
    cli: Cli, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = cli("export", models / "speech", "--format", "torch.export", "--streaming", "--json")
    assert (ended.code, ended.err) == (0, "")
    row = json.loads(ended.out)
    assert row["file"] == "speech-stream.pt2"
    assert (row["format"], row["streaming"], row["input"]) == ("torch.export", True, "audio")
    assert row["bytes"] == (tmp_path / "speech-stream.pt2").stat().st_size
    assert row["difference"] <= 1e-5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["speech", "--format", "tflite"], "no exporter named 'tflite'"),
        (["letters", "--format", "torch.export"], "use --format onnx"),
        (["speech", "--out", "."], "is a folder; give the name of a file"),
        (["speech", "--audio", "none.jsonl"], "cannot open none.jsonl"),
        (["speech", "--format", "torch.export", "--int8"], "--int8: torch.export has no such form"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    cli: Cli,
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = cli("export", models / arguments[0], *arguments[1:])
    assert ended.code == 1
    assert message in ended.err
    assert ended.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_the_model_is_not_written_over(cli: Cli, models: Path, tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(models / "speech", tmp_path / "copy")
    ended = cli("export", copy, "--out", copy / name)
    assert ended.code == 1
    assert "is an input; choose another file to write" in ended.err
    assert (copy / name).read_bytes() == (models / "speech" / name).read_bytes()
