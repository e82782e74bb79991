"""Which files are recordings."""

import os
from pathlib import Path

import pytest

from speechkit.data import find_audio
from speechkit.errors import AudioError


def made(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return [folder / name for name in names]


def test_folders_are_walked_by_name_and_files_taken_as_they_are(tmp_path: Path) -> None:
    names = ("b.WAV", "in/deep/er/c.m4a", "in/a.opus", "in/z.webm", "é.aac")
    paths = made(tmp_path / "sounds", *names)
    made(tmp_path / "sounds", "notes.txt", "b.json", "wav")
    notes = tmp_path / "sounds" / "notes.txt"
    given = [tmp_path / "gone.wav", str(notes), tmp_path / "sounds"]
    assert find_audio(given) == [tmp_path / "gone.wav", notes, *sorted(paths)]


def test_hidden_files_folders_named_like_files_and_linked_folders_are_left_out(
    tmp_path: Path,
) -> None:
    kept = made(tmp_path, "a.wav")
    made(tmp_path, "._a.wav", ".git/b.wav", "folder.wav/notes")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "dead.wav").symlink_to(tmp_path / "gone.wav")
    (tmp_path / "self.wav").symlink_to(tmp_path / "self.wav")
    (tmp_path / "same.wav").symlink_to(tmp_path / "a.wav")
    assert find_audio([tmp_path]) == [*kept, tmp_path / "same.wav"]


def test_a_folder_without_recordings_is_refused(tmp_path: Path) -> None:
    made(tmp_path, "in/notes.txt")
    with pytest.raises(AudioError, match=r"no recordings in .*; give a folder of \.3gp, \.aac"):
        find_audio([tmp_path])


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="everything can be read")
def test_a_folder_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    made(tmp_path, "a.wav", "closed/b.wav")
    (tmp_path / "closed").chmod(0)
    try:
        with pytest.raises(AudioError, match=r"cannot read the folder .*closed: Permission"):
            find_audio([tmp_path])
    finally:
        (tmp_path / "closed").chmod(0o700)
