"""What holds for every input, whatever it is: the answer comes, or one line that says why not."""

import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from speechkit.errors import SpeechkitError

LONGEST_S = 10.0
"""Seconds of processor time that an input may take."""
HUNG_S = 60
"""Seconds after which an input that only waits has failed."""
MOST_BYTES = 10**9
"""What an input may add to the memory of the process."""
LONGEST_LINE = 500

Run = Callable[[Path, Path], None]
"""Reads the first path, and may write below the second."""


class Fault(AssertionError):  # noqa: N818  it is no error of the program that reports it
    """The contract does not hold for an input."""


def check(run: Run, data: bytes, suffix: str, folder: Path) -> None:
    """Runs a target on data, written to `folder/input.SUFFIX`; Fault where the contract breaks.

    The folder stays as it is where the process dies.
    """
    out = folder / "out"
    shutil.rmtree(folder, ignore_errors=True)
    out.mkdir(parents=True)
    path = folder / f"input{suffix}"
    path.write_bytes(data)
    before, started = peak_bytes(), time.process_time()
    with bounded(), watched(out) as written, unraised() as ignored:
        try:
            run(path, out)
        except SpeechkitError as error:
            check_line(str(error))
        except Fault:
            raise
        except Exception as error:
            raise Fault(f"{type(error).__name__}: {error}") from error
    seconds, grown = time.process_time() - started, peak_bytes() - before
    if seconds > LONGEST_S:
        raise Fault(f"it took {seconds:.1f} s of processor time")
    if grown > MOST_BYTES:
        raise Fault(f"it took {grown / 1e6:.0f} MB")
    if ignored:
        raise Fault(f"it prints a traceback: {ignored[0]}")
    if written:
        raise Fault(f"it changed {written[0]}, outside its output")


def check_line(text: str) -> None:
    """Fault unless a message is one printable line below LONGEST_LINE characters."""
    if not text.strip():
        raise Fault("its message is empty")
    if len(text) >= LONGEST_LINE:
        raise Fault(f"its message has {len(text)} characters: {text[:200]}")
    if not text.isprintable():
        raise Fault(f"its message is not one printable line: {text!r}")


def peak_bytes() -> int:
    """The largest memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def bounded() -> Iterator[None]:
    """Ends what does not end by itself."""

    def hung(*_: Any) -> None:
        raise Fault(f"it has not ended after {HUNG_S} s")

    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(HUNG_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def unraised() -> Iterator[list[str]]:
    """The exceptions in the block that nobody can catch, such as those in calls from C."""
    found: list[str] = []
    before = sys.unraisablehook
    sys.unraisablehook = lambda caught: found.append(f"{caught.err_msg}: {caught.exc_value!r}")
    try:
        yield found
    finally:
        sys.unraisablehook = before


_allowed: list[Path] = []
_outside: list[str] = []


@contextmanager
def watched(out: Path) -> Iterator[list[str]]:
    """The paths outside `out` that Python writes, makes, moves or removes in the block."""
    _outside.clear()
    _allowed.append(out.resolve())
    try:
        yield _outside
    finally:
        _allowed.pop()


WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = {"os.remove", "os.rmdir", "os.mkdir", "os.rename", "os.link", "os.symlink", "os.chmod"}
RELATIVE = {"os.remove", "os.rmdir", "os.mkdir"}
# torch makes a folder for its compiler when some of its modules are imported
IGNORED = ("/dev/null", "/proc/", f"{tempfile.gettempdir()}/torchinductor")


def _audit(event: str, given: tuple[Any, ...]) -> None:
    # the hook cannot be taken away again, so it looks for a block first
    if not _allowed or event not in CHANGES | {"open"}:
        return
    if event == "open" and not (isinstance(given[2], int) and given[2] & WRITING):
        return
    paths = given[:2] if event in ("os.rename", "os.link", "os.symlink") else given[:1]
    for path in paths:
        if not isinstance(path, str | bytes | os.PathLike):
            continue
        # the last argument is the folder that the path begins in, where it is not the working one
        base = f"/proc/self/fd/{given[-1]}" if event in RELATIVE and given[-1] != -1 else "."
        name = os.path.realpath(os.path.join(os.path.realpath(base), os.fsdecode(path)))
        if "__pycache__" in name or name.startswith(IGNORED):
            continue
        if not Path(name).is_relative_to(_allowed[-1]):
            _outside.append(f"{event} {name[:200]}")


sys.addaudithook(_audit)
