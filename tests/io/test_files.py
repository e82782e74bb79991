"""What is written appears whole or not at all, and nothing else is touched."""

import errno
import multiprocessing
import os
import shutil
import signal
import stat
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from speechkit.io import files
from speechkit.io.files import LOCK, PART, atomic_file, atomic_folder, locked, recover

OWN = ("config.json", "model.bin", "training/state.bin")


def in_another(function: Callable[[], None]) -> int:
    """The exit code of a process that calls a function and ends."""
    process = multiprocessing.get_context("fork").Process(target=function)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def killed(function: Callable[[], None]) -> None:
    assert in_another(function) == -signal.SIGKILL


def kill_me() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def write(folder: Path, text: str, *more: str) -> None:
    with atomic_folder(folder, OWN) as part:
        (part / "training").mkdir()
        for name in (*OWN, *more):
            (part / name).write_text(text)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of ours that holds things of others."""
    write(tmp_path / "ours", "old")
    for name in (".git/HEAD", "src/a.py", "training/notes.txt"):
        (tmp_path / "ours" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "ours" / name).write_text("theirs")
    return tmp_path / "ours"


def texts(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


THEIRS = dict.fromkeys((".git/HEAD", "src/a.py", "training/notes.txt"), "theirs")


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lm.arpa.gz"
    with atomic_file(path) as part:
        assert part.name == path.name
        part.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one"
    with pytest.raises(UnicodeEncodeError), atomic_file(path) as part:
        part.write_text("half \ud800", encoding="utf-8")
    assert path.read_text() == "one"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_keeps_its_mode_and_a_link_its_target(tmp_path: Path) -> None:
    secret, link = tmp_path / "secret", tmp_path / "link"
    secret.write_text("1")
    secret.chmod(0o600)
    link.symlink_to(secret)
    with atomic_file(link) as part:
        part.write_text("2")
    assert link.is_symlink()
    assert secret.read_text() == "2"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600


def test_a_device_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileExistsError, match="it is not a file"), atomic_file(tmp_path / "pipe"):
        pass
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a" / "model [x] *?"
    with pytest.raises(UnicodeEncodeError), atomic_folder(path) as part:
        (part / "a").write_text("half \ud800", encoding="utf-8")
    assert list(path.parent.iterdir()) == []
    with atomic_folder(path) as part:
        (part / "a").write_text("whole")
        assert not path.exists()
    assert texts(path) == {"a": "whole"}
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_an_empty_folder_is_filled_and_another_is_not(tmp_path: Path) -> None:
    with atomic_folder(tmp_path) as part:
        (part / "a").write_text("1")
    assert texts(tmp_path) == {"a": "1"}
    with pytest.raises(FileExistsError, match="there already"), atomic_folder(tmp_path) as part:
        pass
    assert texts(tmp_path) == {"a": "1"}


def test_what_others_have_in_a_folder_stays(folder: Path) -> None:
    inode = (folder / "src" / "a.py").stat().st_ino
    write(folder, "new", "card.json")
    expected = dict.fromkeys((*OWN, "card.json"), "new")
    assert texts(folder) == expected | THEIRS
    with atomic_folder(folder, OWN) as part:
        (part / "config.json").write_text("3")
    assert texts(folder) == {"config.json": "3", "card.json": "new"} | THEIRS
    assert (folder / "src" / "a.py").stat().st_ino == inode
    assert [p.name for p in folder.parent.iterdir()] == ["ours"]


@pytest.mark.parametrize("nth", range(7))
def test_a_rename_that_fails_leaves_the_old_files(
    folder: Path, nth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, calls, replace = texts(folder), 0, os.replace

    def fail(source: Path, to: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == nth + 1:
            raise OSError(errno.EIO, "input/output error", str(source))
        replace(source, to)

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(OSError, match="input/output error"):
        write(folder, "new")
    assert texts(folder) == before


@pytest.mark.parametrize("nth", range(7))
def test_a_process_killed_at_any_rename_leaves_all_old_or_all_new(folder: Path, nth: int) -> None:
    def run() -> None:
        calls, replace = 0, os.replace

        def kill(source: Path, to: Path) -> None:
            nonlocal calls
            calls += 1
            if calls == nth + 1:
                kill_me()
            replace(source, to)

        files.os.replace = kill  # type: ignore[attr-defined]
        write(folder, "new")

    killed(run)
    recover(folder)
    # three files step aside, then `placing` begins
    assert texts(folder) == dict.fromkeys(OWN, "old" if nth <= 3 else "new") | THEIRS
    assert not [p for p in folder.iterdir() if p.name.startswith(PART)]


def test_what_a_killed_process_left_goes_and_what_is_being_written_stays(tmp_path: Path) -> None:
    def run() -> None:
        with atomic_file(tmp_path / "a.txt") as part:
            part.write_text("half")
            kill_me()

    (tmp_path / ".a.txt.backup").mkdir()
    killed(run)
    assert len(list(tmp_path.iterdir())) == 2
    with atomic_file(tmp_path / "b.txt") as part:
        part.write_text("b")
        recover(tmp_path)
        assert in_another(lambda: recover(tmp_path)) == 0
        assert part.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".a.txt.backup", "b.txt"]


def test_a_part_of_a_process_that_forked_and_died_is_free(tmp_path: Path) -> None:
    read, written = os.pipe()

    def run() -> None:
        with atomic_file(tmp_path / "a.txt"):
            if os.fork():
                kill_me()
            # until the test is over
            os.close(written)
            os.read(read, 1)
            os._exit(0)

    killed(run)
    recover(tmp_path)
    os.close(written)
    os.close(read)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("source", ["placing", "old"])
@pytest.mark.parametrize("link", ["x", "source"])
def test_a_part_from_elsewhere_leads_nowhere_else(tmp_path: Path, source: str, link: str) -> None:
    home, corpus = tmp_path / "home", tmp_path / "corpus"
    part = corpus / f"{PART}0"
    for folder in (home, part):
        folder.mkdir(parents=True)
    (home / "mine.txt").write_text("mine")
    if link == "x":
        (corpus / "x").symlink_to(home)
        (part / source / "x").mkdir(parents=True)
        (part / source / "x" / "mine.txt").write_text("evil")
    else:
        (part / source).symlink_to(home)
    with atomic_file(corpus / "a.txt") as file:
        file.write_text("a")
    assert texts(home) == {"mine.txt": "mine"}
    assert not (corpus / "mine.txt").exists()


def test_own_files_behind_a_link_stay(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder / "training", tmp_path / "elsewhere")
    (folder / "training").symlink_to(tmp_path / "elsewhere")
    with atomic_folder(folder, OWN) as part:
        (part / "config.json").write_text("new")
    assert texts(tmp_path / "elsewhere") == {"state.bin": "old", "notes.txt": "theirs"}
    with pytest.raises(FileExistsError, match="it is a link"):
        write(folder, "newer")
    assert (folder / "config.json").read_text() == "new"
    assert texts(tmp_path / "elsewhere") == {"state.bin": "old", "notes.txt": "theirs"}


def test_the_part_of_another_user_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"{PART}0").mkdir()
    (tmp_path / f"{PART}1").symlink_to(tmp_path)
    monkeypatch.setattr(files.os, "geteuid", lambda: 12345)
    recover(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.undo()
    recover(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [f"{PART}1"]


def test_of_writers_at_once_one_is_the_last(folder: Path) -> None:
    def run(name: str) -> None:
        for turn in range(10):
            write(folder, f"{name}{turn}")

    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=run, args=(name,)) for name in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    found = texts(folder)
    assert {name: found.pop(name) for name in THEIRS} == THEIRS
    assert found.keys() == set(OWN)
    assert len(set(found.values())) == 1
    assert not [p for p in folder.iterdir() if p.name.startswith((PART, LOCK))]


def test_a_lock_is_one_process_s_until_it_ends_or_dies(tmp_path: Path) -> None:
    def take() -> None:
        with locked(tmp_path, "run") as mine:
            os._exit(mine)

    def die() -> None:
        with locked(tmp_path, "run"):
            kill_me()

    with locked(tmp_path, "run") as mine:
        assert mine
        assert in_another(take) == 0
    assert list(tmp_path.iterdir()) == []
    killed(die)
    assert in_another(take) == 1
    with locked(tmp_path, "run") as mine:
        assert mine
    assert list(tmp_path.iterdir()) == []


def test_where_files_cannot_be_locked_all_may_write_and_nothing_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{PART}0").mkdir()
    monkeypatch.setattr(files, "fcntl", None)
    with locked(tmp_path, "run") as mine:
        assert mine
    with atomic_file(tmp_path / "a") as part:
        part.write_text("1")
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{PART}0", "a"]


@pytest.mark.parametrize("kind", [atomic_file, atomic_folder])
def test_a_folder_that_cannot_be_written_is_named_by_the_path_given(
    kind: Callable[[Path], AbstractContextManager[Path]],
) -> None:
    with tempfile.TemporaryDirectory() as closed:
        os.chmod(closed, 0o555)
        path = Path(closed, "out")

        def run() -> None:
            if os.geteuid() == 0:
                os.setuid(65534)
            with pytest.raises(PermissionError) as caught, kind(path):
                pass
            assert caught.value.filename == str(path)

        assert in_another(run) == 0
