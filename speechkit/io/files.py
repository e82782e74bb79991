"""Atomic writing of files and folders, and locks on folders.

Data is first written to a folder `.speechkit-part.TOKEN`, next to a file or a new folder, or inside
an existing folder. Its writer holds a lock on it. So the part of a killed process can be
distinguished from one that is being written.

An existing folder is updated in three steps: files are written to `new` in the part; the files that
they replace move to `old`, and `new` is renamed to `placing`; then its files move into the folder.
"""

import errno
import functools
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PART, LOCK = ".speechkit-part.", ".speechkit-lock."
NEW, PLACING, OLD = "new", "placing", "old"

_held: set[int] = set()
"""The descriptors of this process's locks."""


def _close_locks() -> None:
    """Closes a forked process's copies of its parent's locks, which would outlive the parent."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_locks)


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path with the same file name, which replaces `path` once the block succeeds.

    It is deleted where the block fails. The folder is created; a symbolic link at `path` stays a
    link. OSError names `path`.
    """
    target = Path(os.path.realpath(path))
    with _naming(path):
        if target.exists() and not target.is_file():
            # a device must not be replaced by a file
            raise FileExistsError(
                errno.EEXIST, "it is not a file; give a new name", os.fspath(path)
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        with _part(target.parent) as part:
            new = part / target.name
            yield new
            _sync([new])
            if target.exists():
                shutil.copymode(target, new)
            new.replace(target)


@contextmanager
def atomic_folder(path: str | os.PathLike[str], own: Iterable[str] = ()) -> Iterator[Path]:
    """A temporary folder whose files all move to `path` at the end, or none if the block fails.

    An existing folder must be empty, or `own` names the files in it that are removed or replaced at
    the end; all others stay. An OSError names `path`.
    """
    target = Path(os.path.realpath(path))
    with _naming(path):
        there = target.exists()
        if there and not own:
            _check_empty(target)
        home = target if there else target.parent
        home.mkdir(parents=True, exist_ok=True)
        with _part(home) as part:
            new = part / NEW
            new.mkdir()
            yield new
            _sync(new / name for name in _files(new) if not (new / name).is_symlink())
            if not there:
                try:
                    new.rename(target)
                except OSError:
                    # another process was faster
                    if target.is_dir():
                        _check_empty(target)
                    raise
                return
            with locked(target, "commit", wait=True):
                _recover(target)
                if not own:
                    _check_empty(target)
                _commit(part, own)


def recover(folder: Path) -> None:
    """Completes or removes what killed processes were writing in the folder."""
    if folder.is_dir() and _parts(folder):
        with locked(folder, "commit", wait=True):
            _recover(folder)


@contextmanager
def locked(folder: Path, name: str, wait: bool = False) -> Iterator[bool]:
    """Yields True if this process got a folder's lock of that name, until the end of the block.

    On a file system without locks every process gets it.
    """
    mark = folder / f"{LOCK}{name}"
    while True:
        with suppress(FileExistsError):
            mark.mkdir()
        with _holding(mark, wait, unlockable=True) as mine:
            if not mine and (wait or not mark.exists()):
                # the previous holder removed the lock file
                continue
            try:
                yield mine
            finally:
                if mine:
                    # removed before unlocking, or it could be the file of another holder
                    with suppress(OSError):
                        mark.rmdir()
            return


@contextmanager
def _part(folder: Path) -> Iterator[Path]:
    _recover_once(folder)
    while True:
        part = folder / f"{PART}{secrets.token_hex(8)}"
        part.mkdir()
        with _holding(part, unlockable=True) as mine:
            # a process that mends may have come between
            if mine:
                try:
                    yield part
                finally:
                    _settle(part)
                return


@functools.cache
def _recover_once(folder: Path) -> None:
    """Mends a folder once per process, since searching a large folder for each file is slow."""
    recover(folder)


def _parts(folder: Path) -> list[Path]:
    """The parts in a folder that belong to this user."""
    with os.scandir(folder) as entries:
        return [Path(entry.path) for entry in entries if _is_part(entry)]


def _is_part(entry: "os.DirEntry[str]") -> bool:
    if not (entry.name.startswith(PART) and entry.is_dir(follow_symlinks=False)):
        return False
    try:
        return fcntl is None or entry.stat(follow_symlinks=False).st_uid == os.geteuid()
    except FileNotFoundError:
        # its writer has just removed it
        return False


def _recover(folder: Path) -> None:
    for part in _parts(folder):
        with _holding(part, unlockable=False) as mine:
            if mine:
                _settle(part)


def _commit(part: Path, own: Iterable[str]) -> None:
    """Moves the files of a part into its folder and removes those in `own`, all or none."""
    folder = part.parent
    names = _files(part / NEW)
    for name in names:
        if not _within(folder, name):
            raise FileExistsError(errno.EEXIST, "it is a link; move it away", folder / name.parent)
    aside = [
        folder / name for name in dict.fromkeys([*map(Path, own), *names]) if _within(folder, name)
    ]
    moves = [
        *((path, part / OLD / path.relative_to(folder)) for path in aside if _is_file(path)),
        (part / NEW, part / PLACING),
        *((part / PLACING / name, folder / name) for name in names),
    ]
    done: list[tuple[Path, Path]] = []
    try:
        for source, to in moves:
            _move(source, to)
            done.append((source, to))
    except BaseException:
        for source, to in reversed(done):
            _move(to, source)
        raise
    for path in aside:
        if path.parent != folder:
            with suppress(OSError):
                path.parent.rmdir()


def _settle(part: Path) -> None:
    """Completes an interrupted commit, or undoes it before `placing`, and removes the part.

    A part may have come with a folder from elsewhere; one with links in its paths is not touched.
    """
    source = part / (PLACING if (part / PLACING).is_dir() else OLD)
    names = _files(source)
    if not all(
        _within(part, source.relative_to(part) / n) and _within(part.parent, n) for n in names
    ):
        return
    # files that cannot be moved stay for the next time
    with suppress(OSError):
        for name in names:
            _move(source / name, part.parent / name)
        # removed first, since without `placing` these files would be moved back
        if (part / OLD).is_dir():
            shutil.rmtree(part / OLD)
        shutil.rmtree(part)


def _move(source: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    os.replace(source, to)


def _files(folder: Path) -> list[Path]:
    """The files in a folder and below, relative to it."""
    return [path.relative_to(folder) for path in folder.rglob("*") if _is_file(path)]


def _within(folder: Path, name: Path) -> bool:
    """True if no folder in the path from a folder to a name in it is a link."""
    return not any((folder / parent).is_symlink() for parent in [*name.parents][:-1])


def _is_file(path: Path) -> bool:
    return path.is_symlink() or path.is_file()


def _check_empty(folder: Path) -> None:
    if not folder.is_dir() or any(not name.startswith((PART, LOCK)) for name in os.listdir(folder)):
        raise FileExistsError(errno.EEXIST, "it is there already; give a new name", str(folder))


def _sync(files: Iterable[Path]) -> None:
    """Writes files to the disk before they get their final names."""
    for file in files:
        # Windows syncs only files open for writing
        descriptor = os.open(file, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Makes errors name the path that the user gave, not the temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and (error.filename is None or PART in str(error.filename)):
            error.filename, error.filename2 = os.fspath(path), None
        raise


@contextmanager
def _holding(path: Path, wait: bool = False, *, unlockable: bool) -> Iterator[bool]:
    """Yields True if this process got the lock on a folder, `unlockable` if there are no locks."""
    if fcntl is None:
        yield unlockable
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        yield False
        return
    _held.add(descriptor)
    try:
        yield _flock(path, descriptor, wait, unlockable)
    finally:
        _held.remove(descriptor)
        os.close(descriptor)


def _flock(path: Path, descriptor: int, wait: bool, unlockable: bool) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return unlockable
    # the previous holder may have removed the folder
    return path.exists() and os.path.samestat(os.stat(path), os.fstat(descriptor))
