"""Compiling C++ on first use, and doing without."""

import ctypes
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import speechkit
from speechkit.native import compiler
from speechkit.native.libraries import load

PACKAGE = Path(speechkit.__file__).parent

pytestmark = pytest.mark.skipif(
    not any(map(compiler.shutil.which, compiler.COMPILERS)), reason="there is no C++ compiler"
)


@pytest.fixture(autouse=True)
def fresh(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> Iterator[None]:
    caplog.set_level(logging.INFO)
    compiler._tell_once.cache_clear()
    monkeypatch.setenv("SPEECHKIT_CACHE", str(tmp_path / "cache"))
    load.cache_clear()
    yield
    load.cache_clear()


def source(folder: Path, text: str) -> Path:
    path = folder / "op.cpp"
    path.write_text(text)
    return path


def test_a_source_is_built_once_and_again_when_it_changes(tmp_path: Path) -> None:
    path = source(tmp_path, 'extern "C" int answer() { return 42; }')
    library = load(path)
    assert isinstance(library, ctypes.CDLL)
    assert library.answer() == 42
    built, stored = sorted((tmp_path / "cache").iterdir())
    assert (built.suffix, stored.suffix) == (".so", ".sum")
    load.cache_clear()
    before = built.stat().st_mtime_ns
    assert load(path).answer() == 42
    assert built.stat().st_mtime_ns == before
    source(tmp_path, 'extern "C" int answer() { return 43; }')
    load.cache_clear()
    assert load(path).answer() == 43


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.cpp")), ids=lambda p: str(p.parent.name))
def test_every_source_of_the_package_builds(path: Path) -> None:
    assert isinstance(load(path), ctypes.CDLL)


def test_what_does_not_build_is_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert "does not build" in load(source(tmp_path, "int answer( {"))
    first, record = caplog.records
    assert first.getMessage().startswith("compiling the C++ kernels once")
    assert "\n" not in record.getMessage()
    assert list((tmp_path / "cache").iterdir()) == []


def test_no_compiler_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compiler.shutil, "which", lambda name: None)
    path = source(tmp_path, 'extern "C" int answer() { return 42; }')
    assert "no C++ compiler" in load(path)
    assert "no C++ compiler" in load(path)
    assert len(caplog.records) == 1


LOAD = """
import sys
from pathlib import Path
from speechkit.native import compiler
from speechkit.native.libraries import load
library = load(Path(sys.argv[1]))
print(library if isinstance(library, str) else library.answer())
"""
ANSWER = 'extern "C" int answer() { return 42; }'


def fake_compiler(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Puts a compiler of a few lines of shell where the first one is looked for."""
    path = folder / "bin" / "c++"
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")


DAMAGE = """
import sys
from pathlib import Path
from speechkit.io.cache import cache_folder
from speechkit.native.libraries import load
path = Path(sys.argv[1])
assert load(path).answer() == 42
(built,) = cache_folder().glob("*.so")
whole = built.read_bytes()
for damaged in (b"", whole[:3000], whole[:-1], whole[:-8] + bytes(8), b"rubbish"):
    built.unlink()
    built.write_bytes(damaged)
    load.cache_clear()
    assert load(path).answer() == 42
    assert len(built.read_bytes()) == len(whole)
"""


def test_a_damaged_library_is_built_again(tmp_path: Path) -> None:
    # in a process of its own, for what loads such a library may not live
    path = source(tmp_path, ANSWER)
    command = [sys.executable, "-c", DAMAGE, path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


REAL = next(filter(None, map(shutil.which, compiler.COMPILERS)), "c++")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (f'{REAL} "$@"; for x; do :; done; [ -f "$x" ] && truncate -s 3000 "$x"; true', "build: "),
        ('[ $1 = --version ] && echo 1 || for x; do echo rubbish > "$x"; done', "build: OSError"),
        ("[ $1 = --version ] && echo 1 || true", "does not build: "),
        (
            r"[ $1 = --version ] && echo 1 || { printf '\377 error' >&2; exit 1; }",
            "build: \ufffd e",
        ),
        ("[ $1 = --version ] && echo 1 || exit 1", "ends with 1"),
        ("[ $1 = --version ] || exec sleep 60", "--version prints nothing"),
        ("exit 1", "ends with 1"),
        ("[ $1 = --version ] && echo 1 || { echo so slow >&2; exec sleep 60; }", "more than 1 s"),
    ],
)
def test_a_compiler_that_does_not_compile_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    script: str,
    reason: str,
) -> None:
    fake_compiler(tmp_path, monkeypatch, script)
    monkeypatch.setattr(compiler, "LONGEST_BUILD_S", 1)
    monkeypatch.chdir(tmp_path)  # one script writes files named after the flags
    path = source(tmp_path, ANSWER)
    found = load(path)
    assert isinstance(found, str)
    assert reason in found
    assert "\n" not in found
    assert found in caplog.records[-1].getMessage()
    cache = tmp_path / "cache"
    assert not cache.exists() or list(cache.iterdir()) == []


def test_a_user_without_a_home_does_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("SPEECHKIT_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(compiler.Path, "home", fail)
    assert "SPEECHKIT_CACHE" in load(source(tmp_path, ANSWER))


@pytest.mark.parametrize("mode", [0o770, 0o707, None])
def test_a_folder_that_others_can_write_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int | None
) -> None:
    path = source(tmp_path, ANSWER)
    assert isinstance(load(path), ctypes.CDLL)
    load.cache_clear()
    if mode is None:
        monkeypatch.setattr(compiler.os, "geteuid", lambda: os.getuid() + 1)
        if os.getuid() == 0:
            os.chown(tmp_path / "cache", 12345, -1)
    else:
        (tmp_path / "cache").chmod(mode)
    assert "have SPEECHKIT_CACHE name a folder that you alone can write" in load(path)


@pytest.mark.parametrize("suffix", [".so", ".sum"])
def test_a_library_that_others_can_write_is_built_again(tmp_path: Path, suffix: str) -> None:
    path = source(tmp_path, ANSWER)
    assert isinstance(load(path), ctypes.CDLL)
    (file,) = (tmp_path / "cache").glob(f"*{suffix}")
    before = file.stat().st_ino
    file.chmod(0o666)
    load.cache_clear()
    assert load(path).answer() == 42
    assert file.stat().st_ino != before
    assert file.stat().st_mode & 0o022 == 0


def test_processes_that_start_together_build_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    fake_compiler(tmp_path, monkeypatch, f'echo "$@" >> {log}; exec {REAL} "$@"')
    path = source(tmp_path, ANSWER)
    command = [sys.executable, "-c", LOAD, path]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    for process in processes:
        assert process.communicate(timeout=60)[0].strip() == b"42"
    assert log.read_text().count("-shared") == 1
