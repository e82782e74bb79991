"""Each page of the cookbook runs, and prints what it shows."""

import contextlib
import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from speechkit.plugins import Registry, using

ROOT = Path(__file__).parents[1]
COOKBOOK = ROOT / "docs" / "cookbook"
PAGES = sorted(set(COOKBOOK.glob("*.md")) - {COOKBOOK / "README.md"})
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"\d+[.,]\d+")
SECTION = "\nIf it fails:\n"
PLUGINS = {"wake_word": "heads"}
"""The plugin that a page needs."""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the pages are for a Unix shell")


def in_python(code: str, namespace: dict[str, object], page: Path, line: int) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        # blank lines in front, so that a traceback names the page's own line
        exec(compile("\n" * line + code, str(page), "exec"), namespace)
    return printed.getvalue()


def in_shell(code: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", "-euo", "pipefail", "-c", code]
    done = subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, f"{code}\n{done.stdout}{done.stderr}"
    return done.stdout


def check_printed(shown: str, printed: str) -> None:
    """The same text, with numbers that differ by at most two frames of 20 ms."""
    texts = [
        "\n".join(line.rstrip() for line in text.strip().splitlines()) for text in (shown, printed)
    ]
    assert NUMBER.sub("#", texts[1]) == NUMBER.sub("#", texts[0])
    numbers = [[float(n.replace(",", ".")) for n in NUMBER.findall(text)] for text in texts]
    assert numbers[1] == pytest.approx(numbers[0], abs=0.041)


def run(page: Path) -> None:
    """Runs the blocks of a page in order; a block of text is what the one before it prints."""
    text = page.read_text(encoding="utf-8")
    namespace: dict[str, object] = {"__name__": page.stem}
    printed = ""
    for block in FENCE.finditer(text):
        language, code = block[1], block[2]
        if language == "text":
            check_printed(code, printed)
        elif language == "sh":
            printed = in_shell(code)
        else:
            assert language == "python"
            printed = in_python(code, namespace, page, text.count("\n", 0, block.start(2)))


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the first page makes, and stand-ins for what a reader has."""
    folder = tmp_path_factory.mktemp("recordings")
    with contextlib.chdir(folder):
        run(COOKBOOK / "README.md")
    spec = importlib.util.spec_from_file_location(
        "archives", ROOT / "tests" / "importers" / "conftest.py"
    )
    assert spec is not None
    assert spec.loader is not None
    archives = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(archives)
    config = archives.classifier(2, ["background", "speech"], mels=True)
    archives.pack(folder / "model.nemo", config, archives.golden_weights(config))
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_runs(
    page: Path, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(recordings, tmp_path, dirs_exist_ok=True)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(tmp_path)
    if plugin := PLUGINS.get(page.stem):
        pytest.importorskip(f"speechkit_{plugin}")
        monkeypatch.setenv("SPEECHKIT_PLUGINS", plugin)
    with using(Registry()):
        run(page)


def test_sixteen_pages_are_listed_and_lead_on() -> None:
    listed = re.findall(r"\]\((\w+\.md)\)", (COOKBOOK / "README.md").read_text(encoding="utf-8"))
    assert sorted(listed) == [page.name for page in PAGES]
    assert len(PAGES) == 16
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert SECTION in text, page.name
        assert re.search(r"^Next: .*\]\(", text, re.MULTILINE), page.name
