"""What a command reads stays what it is, whatever it is told to write."""

from pathlib import Path

import pytest

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
    assert "is what is read; name another file to write" in ended.err
    assert Path("read").read_text() == "audio_filepath,text\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "read"]
