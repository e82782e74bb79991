"""The module in WebAssembly, built once for all tests, and a browser."""

import importlib
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The module, built in a folder of its own."""
    if missing := [name for name in ("emcc", "make") if not shutil.which(name)]:
        pytest.skip(f"needs {' and '.join(missing)}")
    path = tmp_path_factory.mktemp("web") / "speechkit.wasm"
    folder = ROOT / "plugins" / "web"
    subprocess.run(["make", "-C", folder, f"WASM={path}"], check=True, capture_output=True)
    return path


@pytest.fixture(scope="session")
def chromium() -> ModuleType:
    """benchmarks/chromium.py, which lies beside the package."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    sys.path.insert(0, str(ROOT))
    try:
        found = importlib.import_module("benchmarks.chromium")
    finally:
        sys.path.remove(str(ROOT))
    if found.program() is None:
        pytest.skip(f"needs {' or '.join(found.PROGRAMS)}")
    return found
