"""A wheel of this platform: it holds the libraries, and they compute what compiled ones do."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import speechkit
from speechkit.native import compiler
from speechkit.native.libraries import INSTRUCTIONS, processor_flags

ROOT = Path(speechkit.__file__).parents[1]
TESTED = ("tests/ops/test_[bdls]*.py", "tests/plans", "tests/streaming/engines/native")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform != "linux" or not processor_flags() or compiler.compiler() is None,
        reason="there is no C++ compiler for x86-64 on Linux",
    ),
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = (sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder)
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=1800)
    (path,) = folder.iterdir()
    return path


@pytest.fixture
def package(wheel: Path, tmp_path: Path) -> Path:
    """The folder of the package that the wheel installs."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    return tmp_path / "site" / "speechkit"


def run(package: Path, *arguments: str) -> str:
    """What Python prints with the wheel's package, and no compiler in reach."""
    (nothing := package.parent / "bin").mkdir(exist_ok=True)
    changes = {
        "PATH": str(nothing),
        "PYTHONPATH": str(package.parent),
        "SPEECHKIT_CACHE": str(package.parent / "cache"),
    }
    done = subprocess.run(
        (sys.executable, *arguments),
        cwd=ROOT / "tests",
        env={**os.environ, **changes},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (package.parent / "cache").exists()
    return done.stdout


def test_each_source_has_a_library_for_each_set_of_instructions(package: Path) -> None:
    sources = {path.relative_to(package).with_suffix("") for path in package.rglob("*.cpp")}
    assert len(sources) == len(list((ROOT / "speechkit").rglob("*.cpp")))
    expected = {f"{source}.{name}.so" for source in sources for name in INSTRUCTIONS}
    assert {str(path.relative_to(package)) for path in package.rglob("*.so")} == expected


def test_the_platform_is_the_oldest_with_the_functions_that_are_called(wheel: Path) -> None:
    *_, abi, platform = wheel.stem.split("-")
    assert abi == "none"
    assert platform.startswith("manylinux_2_")
    minor = int(platform.split("_")[2])
    # exp and log of 2.29 are the newest; a build on an older Linux takes older ones
    assert 17 <= minor <= 36


def test_the_servers_page_is_in_it(package: Path) -> None:
    folder = Path("serve", "page")
    files = {path.name: path.read_bytes() for path in (ROOT / "speechkit" / folder).iterdir()}
    assert "index.html" in files
    assert {path.name: path.read_bytes() for path in (package / folder).iterdir()} == files


LOADED = """
from pathlib import Path
import speechkit
from speechkit.native.libraries import load
for source in Path(speechkit.__file__).parent.rglob("*.cpp"):
    print(Path(load(source)._name).name.removeprefix(source.stem))
"""


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_ops_and_sessions_run_natively_without_a_compiler(package: Path, name: str) -> None:
    if not INSTRUCTIONS[name].processor <= processor_flags():
        pytest.skip("this processor does not run them")
    for path in package.rglob("*.so"):
        if not path.name.endswith(f".{name}.so"):
            path.unlink()
    tests = (str(path) for pattern in TESTED for path in sorted(ROOT.glob(pattern)))
    assert set(run(package, "-c", LOADED).split()) == {f".{name}.so"}
    run(package, "-m", "pytest", "-p", "no:cacheprovider", *tests)
