"""The pictures of the server's page, docs/page.png and docs/page_dark.png: `make screenshots`.

They need a Chromium, whose microphone is the bundled clips.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from playwright.sync_api import Playwright, expect, sync_playwright

from speechkit.data import read_samples

DOCS = Path(__file__).parent
CLIPS = DOCS.parent / "speechkit" / "bundled" / "clips"
SPOKEN = ("an4_ffmm.opus", "an4_mmsh.opus", "an4_ffmm.opus", "an4_mmsh.opus")
CHROMIUM = "/usr/bin/chromium"
RATE = 16000
SIZE = {"width": 960, "height": 900}


def recording(path: Path) -> None:
    """Writes the clips with pauses, in the faint noise of a room."""
    parts = [np.zeros(RATE // 2, np.float32)]
    for clip in SPOKEN:
        parts += [read_samples(CLIPS / clip, target_rate=RATE), np.zeros(RATE, np.float32)]
    samples = np.concatenate(parts)
    samples += np.random.default_rng(0).normal(0, 5e-4, len(samples)).astype(np.float32)
    soundfile.write(path, samples, RATE, "PCM_16")


def picture(player: Playwright, url: str, sound: Path, scheme: str, path: Path) -> None:
    """Lets the page listen until the last clip's words may still change."""
    browser = player.chromium.launch(
        executable_path=CHROMIUM,
        args=[
            "--no-sandbox",
            "--use-fake-ui-for-media-stream",
            "--use-fake-device-for-media-stream",
            f"--use-file-for-fake-audio-capture={sound}%noloop",
        ],
    )
    page = browser.new_page(viewport=SIZE, color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(url)
    expect(page.locator("#status")).to_have_text("Ready")
    page.click("#microphone")
    expect(page.locator("#segments li")).to_have_count(len(SPOKEN), timeout=60_000)
    expect(page.locator("#partial")).to_have_text(re.compile(r"\w"), timeout=60_000)
    page.screenshot(path=path)
    browser.close()


def main() -> None:
    """Makes both pictures."""
    command = [sys.executable, "-m", "speechkit", "serve", "--port", "0"]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server,
    ):
        assert server.stdout is not None
        try:
            url = json.loads(server.stdout.readline())["url"]
            recording(sound := Path(folder, "speech.wav"))
            with sync_playwright() as player:
                for scheme, name in (("light", "page.png"), ("dark", "page_dark.png")):
                    picture(player, url, sound, scheme, DOCS / name)
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
