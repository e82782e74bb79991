"""The libraries of a wheel: which one is loaded, and that nothing is compiled then."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import speechkit
from speechkit.native import compiler, libraries
from speechkit.native.libraries import INSTRUCTIONS, load, prebuilt

PACKAGE = Path(speechkit.__file__).parent
BEST, MIDDLE, LEAST = INSTRUCTIONS

pytestmark = pytest.mark.skipif(compiler.compiler() is None, reason="there is no C++ compiler")


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A source with a library for each set of instructions; none may be compiled."""
    path = tmp_path / "op.cpp"
    for name, answer in ((BEST, 3), (MIDDLE, 2), (LEAST, 1), ("", 0)):
        path.write_text(f'extern "C" int answer() {{ return {answer}; }}')
        if name:
            compiler.build(path, compiler.compiler() or "", prebuilt(path, name))
    monkeypatch.setenv("SPEECHKIT_CACHE", str(tmp_path / "cache"))
    load.cache_clear()
    yield path
    load.cache_clear()


def with_flags(monkeypatch: pytest.MonkeyPatch, flags: frozenset[str]) -> None:
    monkeypatch.setattr(libraries, "processor_flags", lambda: flags)


@pytest.mark.parametrize(
    ("flags", "answer"),
    [
        pytest.param(INSTRUCTIONS[BEST].processor | {"amx_tile"}, 3, id="all"),
        pytest.param(INSTRUCTIONS[BEST].processor - {"avx512_bf16"}, 2, id="without bf16"),
        pytest.param(INSTRUCTIONS[BEST].processor - {"avx512vl"}, 1, id="without some of AVX-512"),
        pytest.param(INSTRUCTIONS[LEAST].processor | {"avx512_vnni"}, 1, id="VNNI alone"),
        pytest.param(INSTRUCTIONS[LEAST].processor - {"fma"}, 0, id="compiled without FMA"),
        pytest.param(frozenset(), 0, id="compiled where nothing is known"),
    ],
)
def test_the_best_library_that_the_processor_runs_is_loaded(
    monkeypatch: pytest.MonkeyPatch, source: Path, flags: frozenset[str], answer: int
) -> None:
    with_flags(monkeypatch, flags)
    library = load(source)
    assert not isinstance(library, str), library
    assert library.answer() == answer
    assert (source.parent / "cache").exists() == (answer == 0)


def test_a_library_that_does_not_load_leaves_the_next_and_a_warning(
    monkeypatch: pytest.MonkeyPatch, source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with_flags(monkeypatch, INSTRUCTIONS[BEST].processor)
    prebuilt(source, BEST).write_bytes(b"rubbish")
    library = load(source)
    assert not isinstance(library, str), library
    assert library.answer() == 2
    (record,) = caplog.records
    assert BEST in record.getMessage()


def test_flags_of_the_processor_are_those_that_linux_lists() -> None:
    path = Path("/proc/cpuinfo")
    listed = path.read_text(encoding="utf-8") if path.exists() else ""
    assert all(flag in listed for flag in libraries.processor_flags())
    assert ("\nflags" in listed) == bool(libraries.processor_flags())


def test_only_what_comes_with_torch_needs_openmp() -> None:
    # torch brings libgomp, and a machine without torch may have none
    sources = [path for path in PACKAGE.rglob("*.cpp") if path.parents[1].name != "ops"]
    assert sources
    assert not any("#pragma omp" in path.read_text(encoding="utf-8") for path in sources)
