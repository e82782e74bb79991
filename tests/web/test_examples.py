"""The examples of docs/browser.md, as a user pastes them."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

import speechkit as sk

from .test_web import ROOT, WEB, clips, events_of, packed_bytes, plan_file

PAGE = (ROOT / "docs" / "browser.md").read_text(encoding="utf-8")


def example(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


@pytest.fixture
def folder(module: Path, tmp_path: Path) -> Path:
    """A folder with the package installed, and a plan."""
    package = tmp_path / "node_modules" / "speechkit-web"
    shutil.copytree(WEB, package, ignore=shutil.ignore_patterns("dist"))
    (package / "dist").mkdir()
    shutil.copy(module, package / "dist")
    shutil.copy(plan_file("vad"), tmp_path / "vad.safetensors")
    return tmp_path


@pytest.mark.skipif(not shutil.which("node"), reason="needs node")
def test_a_recording(folder: Path) -> None:
    sound = (clips(16000) * 32767).astype(np.int16)
    sound.tofile(folder / "call.raw")
    (folder / "find.mjs").write_text(example("js"))
    ran = subprocess.run(["node", "find.mjs"], cwd=folder, capture_output=True, check=True)
    found = [json.loads(line) for line in ran.stdout.splitlines()]
    assert found == events_of(sk.stream("vad"), sound)


def test_the_microphone(folder: Path, chromium: ModuleType) -> None:
    press = """<script type="module">
      document.querySelector("button").click();
      const list = document.querySelector("ul");
      while (list.children.length < 4) await new Promise((done) => setTimeout(done, 50));
      window.found = Array.from(list.children, (item) => JSON.parse(item.textContent));
    </script>"""
    (folder / "page.html").write_text(example("html") + press)
    soundfile.write(folder / "spoken.wav", clips(48000), 48000, subtype="PCM_16")
    microphone = f"--use-file-for-fake-audio-capture={folder / 'spoken.wav'}"
    found = chromium.answer_of("own/page.html", {}, {"own": folder}, microphone)
    assert {row["event"] for row in found} == {"speech_start", "speech_end"}


def test_the_size_on_the_page(module: Path) -> None:
    (stated,) = re.findall(r"have (\d+) KB together after gzip", PAGE)
    assert round(packed_bytes(module) / 1000) == pytest.approx(int(stated), abs=3)
