"""Building C++ on first use, and doing without."""

import ctypes
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

import speechkit
from speechkit.ops import native

PACKAGE = Path(speechkit.__file__).parent

pytestmark = pytest.mark.skipif(
    not any(map(native.shutil.which, native.COMPILERS)), reason="there is no C++ compiler"
)


@pytest.fixture(autouse=True)
def fresh(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> Iterator[None]:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("SPEECHKIT_CACHE", str(tmp_path / "cache"))
    native.load.cache_clear()
    yield
    native.load.cache_clear()


def source(folder: Path, text: str) -> Path:
    path = folder / "op.cpp"
    path.write_text(text)
    return path


def test_a_source_is_built_once_and_again_when_it_changes(tmp_path: Path) -> None:
    path = source(tmp_path, 'extern "C" int answer() { return 42; }')
    library = native.load(path)
    assert isinstance(library, ctypes.CDLL)
    assert library.answer() == 42
    (built,) = (tmp_path / "cache").iterdir()
    native.load.cache_clear()
    before = built.stat().st_mtime_ns
    assert native.load(path).answer() == 42
    assert built.stat().st_mtime_ns == before
    source(tmp_path, 'extern "C" int answer() { return 43; }')
    native.load.cache_clear()
    assert native.load(path).answer() == 43


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.cpp")), ids=lambda p: str(p.parent.name))
def test_every_source_of_the_package_builds(path: Path) -> None:
    assert isinstance(native.load(path), ctypes.CDLL)


def test_what_does_not_build_is_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert "does not build" in native.load(source(tmp_path, "int answer( {"))
    (record,) = caplog.records
    assert "\n" not in record.getMessage()
    assert list((tmp_path / "cache").iterdir()) == []


def test_no_compiler_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(native.shutil, "which", lambda name: None)
    path = source(tmp_path, 'extern "C" int answer() { return 42; }')
    assert "no C++ compiler" in native.load(path)
    assert "no C++ compiler" in native.load(path)
    assert len(caplog.records) == 1
