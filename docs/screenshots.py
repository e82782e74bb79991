"""The pictures of the server's page, docs/page.png, docs/page_dark.png and the moving
docs/page.webp: `make screenshots`.

They need a Chromium, whose microphone is the bundled clips.
"""

import io
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image
from playwright.sync_api import Page, Playwright, expect, sync_playwright

from speechkit.data import read_samples

DOCS = Path(__file__).parent
CLIPS = DOCS.parent / "speechkit" / "bundled" / "clips"
SPOKEN = ("an4_ffmm.opus", "an4_mmsh.opus", "an4_ffmm.opus", "an4_mmsh.opus")
CHROMIUM = "/usr/bin/chromium"
RATE = 16000
SIZE = {"width": 960, "height": 900}
FILM = {"width": 720, "height": 560}
FRAME_S = 0.2


def recording(path: Path) -> None:
    """Writes the clips with pauses, in the faint noise of a room."""
    parts = [np.zeros(RATE // 2, np.float32)]
    for clip in SPOKEN:
        parts += [read_samples(CLIPS / clip, target_rate=RATE), np.zeros(RATE, np.float32)]
    samples = np.concatenate(parts)
    samples += np.random.default_rng(0).normal(0, 5e-4, len(samples)).astype(np.float32)
    soundfile.write(path, samples, RATE, "PCM_16")


@contextmanager
def page_at(
    player: Playwright, url: str, sound: Path, scheme: str, size: dict[str, int]
) -> Iterator[Page]:
    """The page in a new browser, ready, with a recording as its microphone."""
    browser = player.chromium.launch(
        executable_path=CHROMIUM,
        args=[
            "--no-sandbox",
            "--use-fake-ui-for-media-stream",
            "--use-fake-device-for-media-stream",
            f"--use-file-for-fake-audio-capture={sound}%noloop",
        ],
    )
    page = browser.new_page(viewport=size, color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(url)
    expect(page.locator("#status")).to_have_text("Ready")
    yield page
    browser.close()


def picture(page: Page, path: Path) -> None:
    """Lets the page listen until the last clip's words may still change."""
    page.click("#microphone")
    expect(page.locator("#segments li")).to_have_count(len(SPOKEN), timeout=60_000)
    expect(page.locator("#partial")).to_have_text(re.compile(r"\w"), timeout=60_000)
    page.screenshot(path=path)


def film(page: Page, path: Path, longest_s: float) -> None:
    """Lets the page listen, and takes a picture every FRAME_S."""
    page.click("#microphone")
    frames, times_s = [], [time.monotonic()]
    while times_s[-1] - times_s[0] < longest_s:
        frames.append(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
        page.wait_for_timeout(max(0.0, times_s[-1] + FRAME_S - time.monotonic()) * 1000)
        times_s.append(time.monotonic())
    durations_ms = [round(1000 * s) for s in np.diff(times_s)]
    durations_ms[-1] = 2000
    frames[0].save(
        path, save_all=True, append_images=frames[1:], duration=durations_ms, loop=0, quality=70
    )


def main() -> None:
    """Makes the pictures."""
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
                    with page_at(player, url, sound, scheme, SIZE) as page:
                        picture(page, DOCS / name)
                with page_at(player, url, sound, "light", FILM) as page:
                    film(page, DOCS / "page.webp", soundfile.info(sound).duration)
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
