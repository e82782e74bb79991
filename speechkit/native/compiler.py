"""Compiles C++ sources on first use, and caches the libraries per processor."""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import stat
import subprocess
import sys
from pathlib import Path

from speechkit.errors import ConfigError, one_line
from speechkit.io.cache import cache_folder
from speechkit.io.files import atomic_file, locked

log = logging.getLogger(__name__)

COMPILERS = ("c++", "g++", "clang++")
# no -ffast-math, which may change NaN and infinity
FLAGS = ("-O3", "-std=c++17", "-fno-math-errno", "-fPIC", "-shared")
THIS_PROCESSOR = "-march=native"
PARALLEL = "-fopenmp"
LONGEST_BUILD_S = 120
HEADERS = Path(__file__).parents[1] / "ops"
"""The headers that any source may include; others lie next to their source."""


class UnbuiltError(Exception):
    """A library could not be built; the message is the reason in one line."""


def compiler() -> str | None:
    """The path of the first C++ compiler that is installed, or None."""
    return next(filter(None, map(shutil.which, COMPILERS)), None)


def compiled(source: Path) -> ctypes.CDLL | str:
    """The library of one C++ file, or the reason in one line why there is none."""
    program = compiler()
    # a missing compiler needs no warning: models can run in torch, and a plan raises an error
    level = logging.WARNING if program else logging.INFO
    try:
        if program is None:
            raise UnbuiltError(f"no C++ compiler ({', '.join(COMPILERS)}); install one")
        return ctypes.CDLL(str(_built(source, program)))
    except (UnbuiltError, ConfigError, OSError) as error:
        reason = one_line(error)
    _tell_once(level, f"native code is off: {reason}", "warning")
    return reason


def build(source: Path, program: str, target: Path, *flags: str) -> None:
    """Compiles one source, with OpenMP unless that fails; raises UnbuiltError or OSError."""
    flags = (*FLAGS, *flags, f"-I{HEADERS}")
    try:
        _run(program, *flags, PARALLEL, str(source), "-o", str(target))
    except UnbuiltError:
        # some compilers have no OpenMP; without it, one thread is used
        _run(program, *flags, str(source), "-o", str(target))


def _built(source: Path, program: str) -> Path:
    """The shared library in the cache; it is built if no complete one of this user exists."""
    headers = {*HEADERS.glob("*.h"), *source.parent.glob("*.h")}
    text = b"".join(path.read_bytes() for path in (source, *sorted(headers)))
    version = _run(program, "--version").partition("\n")[0]
    if not version:
        raise UnbuiltError(f"{program} --version prints nothing, so its libraries have no name")
    key = "\n".join((version, *FLAGS, THIS_PROCESSOR, PARALLEL, processor())).encode()
    digest = hashlib.sha256(text + key).hexdigest()[:16]
    target = cache_folder() / f"{source.parent.name}-{digest}.so"
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _is_private(target.parent):
        raise UnbuiltError(
            f"{target.parent} belongs to others or they can write there; have SPEECHKIT_CACHE name "
            "a folder that you alone can write"
        )
    if not _is_whole(target):
        _tell_once(
            logging.WARNING,
            "compiling the C++ kernels once, which may take a minute; they are kept in "
            f"{target.parent}",
            "note",
        )
        # one process builds, and the others wait for it
        with locked(target.parent, target.stem, wait=True):
            if not _is_whole(target):
                _build(source, program, target)
    return target


def _build(source: Path, program: str, target: Path) -> None:
    stored = target.with_suffix(".sum")
    for bad in (target, stored):
        bad.unlink(missing_ok=True)
    with atomic_file(target) as part:
        try:
            build(source, program, part, THIS_PROCESSOR)
            # a broken library may crash the process that loads it
            if not getattr(sys, "frozen", False):
                _run(sys.executable, "-I", "-c", TRIAL, str(part))
        except (UnbuiltError, OSError) as error:
            name = f"{source.parent.name}/{source.name}"
            raise UnbuiltError(f"{name} does not build: {error}") from error
        part.chmod(0o755)
        made = _sum(part)
    with atomic_file(stored) as part:
        part.write_bytes(made)
        part.chmod(0o644)


TRIAL = "import ctypes, sys; ctypes.CDLL(sys.argv[1])"


def _is_whole(library: Path) -> bool:
    """True if a library belongs to this user and has the size and hash stored next to it."""
    stored = library.with_suffix(".sum")
    if not (library.is_file() and stored.is_file()):
        return False
    return _is_private(library) and _is_private(stored) and stored.read_bytes() == _sum(library)


def _sum(library: Path) -> bytes:
    content = library.read_bytes()
    return f"{len(content)} {hashlib.sha256(content).hexdigest()}\n".encode()


def _is_private(path: Path) -> bool:
    """True if only this user or root can write a file or folder."""
    found = path.stat()
    # Windows has no such owners, and protects each user's folders
    return not hasattr(os, "geteuid") or (
        found.st_uid in (0, os.geteuid()) and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    )


@functools.cache
def _tell_once(level: int, message: str, kind: str) -> None:
    """Logs a message once, since it is the same for every source."""
    log.log(level, message, extra={"kind": kind})


def processor() -> str:
    """A name that differs for processors with different instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))


def _run(*command: str) -> str:
    """The output of a command; raises UnbuiltError with its first error line."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=LONGEST_BUILD_S,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"{command[0]} takes more than {LONGEST_BUILD_S} s") from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        lines = lines or [f"{command[0]} ends with {done.returncode}"]
        raise UnbuiltError(next((line for line in lines if "error" in line.lower()), lines[0]))
    return done.stdout.decode(errors="replace")
