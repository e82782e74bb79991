"""Commands never overwrite the files that they read."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from .conftest import Cli


@pytest.mark.parametrize(
    "asked",
    [
        ("lm", "read", "--out", "./read"),
        ("evaluate", "vad", "--manifest", "read", "--report", "read"),
        ("export", "vad", "--audio", "read", "--out", "link"),
        ("manifest", ".", "--labels-from", "read", "--out", "read"),
        ("manifest", ".", "--labels-from", "read", "--out", "new", "--dev", "read"),
    ],
)
def test_what_is_read_is_not_written(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("read").write_text("audio_filepath,text\n")
    Path("link").symlink_to("read")
    ended = cli(*asked)
    assert ended.code == 1
    assert "is an input; choose another file to write" in ended.err
    assert Path("read").read_text() == "audio_filepath,text\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "read"]


@pytest.mark.parametrize(
    "command",
    [
        ("lm", "text", "--out", "notes.md"),
        ("export", "vad", "--out", "notes.md"),
        ("manifest", ".", "--out", "notes.md"),
        ("evaluate", "vad", "--manifest", "m.jsonl", "--report", "notes.md"),
    ],
)
def test_a_file_of_another_kind_is_not_replaced(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    soundfile.write("a.wav", np.zeros(16000), 16000)
    for name in ("text", "notes.md"):
        Path(name).write_text("mine")
    Path("m.jsonl").write_text('{"audio_filepath": "a.wav", "duration": 1, "segments": []}\n')
    ended = cli(*command)
    assert ended.code == 1
    assert "so it is not replaced; give another name" in ended.err
    assert Path("notes.md").read_text() == "mine"
