"""The page at `/` in a browser: what it shows and saves is what the command line prints."""

import contextlib
import io
import json
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from speechkit.data import read_samples
from speechkit.events import Word
from speechkit.serve import assets
from speechkit.serve.settings import Limits
from speechkit.text.timeline import srt
from speechkit.text.transcript import subtitles

from .conftest import CLIPS, Running, rows, running, wav

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = playwright.expect

CHROMIUM = shutil.which("chromium")
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
FAKE_MICROPHONE = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
TOKEN = "a-token-of-the-tests"
EDGE_S = 0.1
"""How far an edge may lie from the file's: the fake microphone is paced by a timer, and Chromium
resamples it twice. Times are compared from the first edge on, since it starts at its own time."""
Command = Callable[..., str]
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def player() -> Iterator[Any]:
    # this machine may be busy
    expect.set_options(timeout=30_000)
    with playwright.sync_playwright() as found:
        yield found


@pytest.fixture
def open_page(player: Any) -> Iterator[Open]:
    """`open_page(url, ...)` is the page in a new browser; at the end it must have had no errors."""
    faults: list[str] = []
    foreign: list[str] = []
    with contextlib.ExitStack() as stack:

        def open_at(
            url: str, *flags: str, script: str = "", ready: bool = True, **view: Any
        ) -> Any:
            browser = player.chromium.launch(
                executable_path=CHROMIUM, args=["--no-sandbox", *flags]
            )
            stack.callback(browser.close)
            page = browser.new_page(**view)
            page.set_default_timeout(60_000)
            # a refused request, which a test makes on purpose, is logged too
            page.on("console", lambda m: faults.append(m.text) if "Policy" in m.text else None)
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.on("request", lambda r: None if r.url.startswith(url) else foreign.append(r.url))
            if script:
                page.add_init_script(script)
            page.goto(url)
            if ready:
                expect(page.locator("#status")).to_have_text("Ready")
            return page

        yield open_at
    assert faults == []
    assert [url for url in foreign if not url.startswith("blob:")] == []


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording at 16 kHz of words that an4 reads as they are, however they are resampled."""
    path = tmp_path_factory.mktemp("spoken") / "spoken.wav"
    clip = read_samples(CLIPS / "an4_ffmm.opus", target_rate=16000)
    samples = np.concatenate([np.zeros(8000), clip, np.zeros(24000), clip, np.zeros(24000)])
    samples += np.random.default_rng(0).normal(0, 3e-4, len(samples))
    soundfile.write(path, samples, 16000, "PCM_16")
    return path


def hear(page: Any, file: Path | dict[str, Any]) -> None:
    """Opens a file, and waits for the last event."""
    page.set_input_files("#file", file)
    expect(page.locator("#status")).to_have_text(re.compile("^Done"), timeout=60_000)


def saved(page: Any, button: str) -> tuple[str, bytes]:
    """The name and the content of the file that a button saves."""
    with page.expect_download() as download:
        page.click(button)
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def timeline(page: Any) -> str:
    return saved(page, "#save-rttm")[1].decode()


def edges(rttm: str) -> list[float]:
    """Starts and ends in seconds."""
    found = [(float(line.split()[3]), float(line.split()[4])) for line in rttm.splitlines()]
    return [time_s for start_s, length_s in found for time_s in (start_s, start_s + length_s)]


@in_browser
def test_one_recording_is_taken_at_a_time(server: Running, open_page: Open, spoken: Path) -> None:
    slow = "File.prototype.arrayBuffer = () => new Promise((done) => (window.read = done))"
    page = open_page(server.url, *FAKE_MICROPHONE, script=slow)
    microphone, file = page.locator("#microphone"), page.locator("#file")
    page.set_input_files("#file", spoken)
    expect(page.locator("#status")).to_have_text("Reading…")
    assert microphone.is_disabled()
    assert file.is_disabled()
    page.evaluate("window.read(new ArrayBuffer(0))")
    expect(page.locator("#error")).to_contain_text("no recording")
    microphone.click()
    expect(microphone).to_have_text("Stop")
    # the second one comes before the last samples
    page.evaluate("(button) => (button.click(), button.click())", microphone.element_handle())
    expect(microphone).to_have_text("Use the microphone")
    expect(page.locator("#status")).to_have_text(re.compile("^Done"))
    assert microphone.is_enabled()
    assert file.is_enabled()


@pytest.fixture
def expected_rttm(command: Command, tmp_path: Path) -> Callable[..., str]:
    """What `speechkit vad` writes."""

    def call(file: Path, *options: object) -> str:
        command("vad", file, "--format", "rttm", "--out", tmp_path / "rttm", *options)
        (path,) = (tmp_path / "rttm").iterdir()
        text = path.read_text()
        path.unlink()
        return text

    return call


def finals(command: Command, file: Path) -> list[dict[str, Any]]:
    found = rows(command("listen", "--model", "an4", "--file", file, "--json"))
    return [row for row in found if row["event"] == "final"]


@pytest.mark.parametrize("path", sorted(assets.PATHS))
def test_a_file_of_the_page_loads_nothing_from_elsewhere(server: Running, path: str) -> None:
    found = server.http.get(path)
    assert found.status_code == 200
    policy = found.headers["content-security-policy"].split("; ")
    assert {"default-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"} <= set(policy)
    assert "unsafe" not in found.headers["content-security-policy"]
    assert found.headers["x-content-type-options"] == "nosniff"
    kind = {"html": "html", "css": "css", "js": "javascript", "svg": "svg+xml"}
    assert kind[path.rpartition(".")[2] if path != "/" else "html"] in found.headers["content-type"]
    hosts = re.findall(r"https?://[\w.]+\w", found.text)
    assert set(hosts) <= {"http://www.w3.org", "http://127.0.0.1"}
    assert server.http.post(path).status_code == 405


def test_every_file_of_the_folder_is_served(server: Running) -> None:
    assert "/" in assets.PATHS
    for file in assets.FOLDER.iterdir():
        path = "/" if file.name == "index.html" else f"/page/{file.name}"
        assert server.http.get(path).content == file.read_bytes()


@pytest.mark.parametrize(
    "path",
    ["/page", "/page/", "/page/none.js", "/index.html", "/page/../app.py", "/page/%2e%2e/app.py"],
)
def test_another_path_is_an_error_in_one_line(server: Running, path: str) -> None:
    found = server.http.get(path)
    assert (found.status_code, [*found.json()]) == (404, ["error"])
    assert "\n" not in found.text


@in_browser
def test_a_file_gives_what_the_command_line_prints(
    server: Running,
    open_page: Open,
    speech: Path,
    command: Command,
    expected_rttm: Callable[..., str],
    tmp_path: Path,
) -> None:
    page = open_page(server.url)
    hear(page, speech)
    said = finals(command, speech)
    assert page.inner_text("#words").strip() == " ".join(row["text"] for row in said) != ""
    assert saved(page, "#save-rttm") == ("speech.rttm", expected_rttm(speech).encode())
    assert page.locator("#segments li").count() == len(timeline(page).splitlines()) > 3

    words = [Word(**word) for row in said for word in row["words"]]
    cues = [(start_s, end_s, "\n".join(lines)) for start_s, end_s, lines in subtitles(words)]
    assert saved(page, "#save-srt") == ("speech.srt", srt(cues).encode())

    command("vad", speech, "--cut", tmp_path / "cuts")
    name, content = saved(page, "#save-cuts")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert (name, archive.testzip()) == ("speech_cuts.zip", None)
        cuts = {file: archive.read(file) for file in archive.namelist()}
    assert [*cuts] == [path.name for path in sorted((tmp_path / "cuts").iterdir())]
    for name, cut in cuts.items():
        wanted, rate = soundfile.read(tmp_path / "cuts" / name, dtype="int16")
        found, found_rate = soundfile.read(io.BytesIO(cut), dtype="int16")
        assert (found_rate, found.tolist()) == (rate, wanted.tolist())
    assert saved(page, "#segments li:nth-child(2) .save") == [*cuts.items()][1]


@in_browser
@pytest.mark.parametrize(
    ("rate", "channels", "subtype"),
    [
        (44100, 2, "PCM_24"),
        (16000, 1, "FLOAT"),
        (22050, 3, "PCM_16"),
        (16000, 2, "PCM_32"),
        (8000, 1, "DOUBLE"),
    ],
)
def test_wav_files_are_read_sample_by_sample(
    server: Running,
    open_page: Open,
    spoken: Path,
    command: Command,
    expected_rttm: Callable[..., str],
    tmp_path: Path,
    rate: int,
    channels: int,
    subtype: str,
) -> None:
    x = read_samples(spoken, target_rate=rate) * 0.7
    sides = [x * 0.9**channel for channel in range(channels)]
    file = tmp_path / "my talk.wav"
    soundfile.write(file, np.stack(sides, 1), rate, subtype)
    page = open_page(server.url)
    hear(page, file)
    assert timeline(page) == expected_rttm(file)
    said = " ".join(row["text"] for row in finals(command, file))
    assert page.inner_text("#words").strip() == said != ""
    name, cut = saved(page, "#segments li:nth-child(1) .save")
    command("vad", file, "--cut", tmp_path / "cuts")
    wanted = soundfile.read(tmp_path / "cuts" / name, dtype="int16")[0].astype(int)
    found, found_rate = soundfile.read(io.BytesIO(cut), dtype="int16")
    assert (found_rate, len(found)) == (rate, len(wanted))
    # halves may be rounded up or down
    assert np.abs(found - wanted).max() <= 1


@in_browser
@pytest.mark.parametrize("form", ["flac", "opus"])
def test_other_formats_are_read_by_the_browser(
    server: Running,
    open_page: Open,
    spoken: Path,
    command: Command,
    expected_rttm: Callable[..., str],
    tmp_path: Path,
    form: str,
) -> None:
    """FLAC at its own rate; Chromium maps 32767 to 1, so that samples are not quite the file's."""
    file = CLIPS / "an4_ffmm.opus"
    if form == "flac":
        file = tmp_path / "spoken.flac"
        soundfile.write(file, *soundfile.read(spoken), "PCM_16")
    page = open_page(server.url)
    hear(page, file)
    assert edges(timeline(page)) == pytest.approx(edges(expected_rttm(file)), abs=0.02)
    said = " ".join(row["text"] for row in finals(command, file))
    assert page.inner_text("#words").strip() == said != ""
    cut = saved(page, "#segments li:nth-child(1) .save")[1]
    assert soundfile.info(io.BytesIO(cut)).samplerate == {"flac": 16000, "opus": 48000}[form]


@in_browser
def test_the_microphone_gives_the_text_and_the_timeline_of_the_file(
    server: Running,
    open_page: Open,
    spoken: Path,
    command: Command,
    expected_rttm: Callable[..., str],
) -> None:
    sound = f"--use-file-for-fake-audio-capture={spoken}%noloop"
    page = open_page(server.url, *FAKE_MICROPHONE, sound)
    said, wanted = finals(command, spoken), edges(expected_rttm(spoken))
    page.get_by_role("button", name="Use the microphone").click()
    # words come before they are final, lighter and after those that are
    expect(page.locator("#partial")).to_have_text(re.compile(r"^\w"))
    expect(page.locator("#status")).to_have_text(re.compile("^Listening, 0:"))
    expect(page.locator(".final")).to_have_count(len(said))
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#status")).to_have_text(re.compile("^Done"))
    assert page.inner_text("#words").strip() == " ".join(row["text"] for row in said)
    found = edges(timeline(page))
    assert np.array(found) - found[0] == pytest.approx(np.array(wanted) - wanted[0], abs=EDGE_S)
    assert saved(page, "#save-rttm")[0] == "microphone.rttm"
    assert page.get_by_role("button", name="Use the microphone").is_enabled()


@in_browser
def test_sliders_change_the_timeline(
    server: Running, open_page: Open, speech: Path, expected_rttm: Callable[..., str]
) -> None:
    page = open_page(server.url)
    onset, offset = (page.get_by_role("slider", name=f"Speech {x}") for x in ("starts", "ends"))
    assert (onset.input_value(), offset.input_value()) == ("0.7", "0.49")
    hear(page, speech)
    usual = timeline(page)
    onset.fill("0.99")
    wanted = expected_rttm(speech, "--onset", 0.99, "--offset", 0.49)
    assert wanted != usual
    # a change is heard once more, from the beginning
    expect(page.locator("#segments li")).to_have_count(len(wanted.splitlines()))
    expect(page.locator("#status")).to_have_text(re.compile("^Done"))
    assert timeline(page) == wanted
    assert page.locator("#onset-value").inner_text() == "0.99"
    # the words stay
    assert page.locator(".final").count() > 0
    onset.fill("0.2")
    assert offset.input_value() == "0.2"
    offset.fill("0.6")
    assert onset.input_value() == "0.6"
    # a new recording is heard by them from the beginning
    page.reload()
    expect(page.locator("#status")).to_have_text("Ready")
    onset.fill("0.99")
    page.wait_for_timeout(500)
    hear(page, speech)
    assert timeline(page) == wanted


@in_browser
def test_the_keyboard_is_enough(server: Running, open_page: Open, tmp_path: Path) -> None:
    clip = read_samples(CLIPS / "an4_ffmm.opus", target_rate=16000)
    parts = [np.zeros(16000), clip, np.zeros(40 * 16000), clip, np.zeros(16000)]
    file = tmp_path / "long.wav"
    soundfile.write(file, np.concatenate(parts), 16000)
    page = open_page(server.url)
    hear(page, file)
    reached = []
    page.locator("body").press("Tab")
    while (focus := page.locator(":focus")).count():
        reached.append(focus.get_attribute("id") or focus.get_attribute("class"))
        shown = focus.evaluate(
            "e => getComputedStyle(e.matches('#file') ? e.parentElement : e).outlineStyle"
        )
        assert shown == "solid", reached
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement === document.body") or len(reached) > 30:
            break
    inputs = ["microphone", "file", "position", "onset", "offset", "detector", "recogniser"]
    assert reached == [*inputs, *["show", "save"] * 2, "save-srt", "save-rttm", "save-cuts"]

    position = page.get_by_role("slider", name="Position")
    latest = float(position.input_value())
    assert latest == pytest.approx(float(position.get_attribute("max") or 0), abs=0.1)
    position.press("Home")
    expect(position).to_have_value("0")
    second = page.get_by_role("button", name=re.compile(r"^Show 0:4\d"))
    second.press("Enter")
    expect(position).not_to_have_value("0")
    onset = page.get_by_role("slider", name="Speech starts")
    onset.press("ArrowRight")
    assert page.locator("#onset-value").inner_text() == "0.71"


CONTRAST = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b]
    .map((x) => x / 255)
    .map((x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4))
    .reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => {
    const found = parse(getComputedStyle(e).backgroundColor);
    return found.length === 3 ? found : ground(e.parentElement);
  };
  const own = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
  return [...document.querySelectorAll("body *")]
    .filter((e) => e.checkVisibility() && own(e) && !e.closest(":disabled"))
    .map((e) => {
      const pair = [light(parse(getComputedStyle(e).color)), light(ground(e))];
      return [e.outerHTML.slice(0, 60), (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05)];
    });
}"""
OVERLAPS = """() => {
  const parts = [...document.querySelectorAll("button, label, select, h1, h2, p, canvas, input")]
    .filter((e) => e.checkVisibility() && !e.closest(".button input, .unseen"))
    .map((e) => [e, e.getBoundingClientRect()]);
  return parts.flatMap(([a, x], i) => parts.slice(i + 1)
    .filter(([b, y]) => !a.contains(b) && x.left < y.right - 1 && y.left < x.right - 1
      && x.top < y.bottom - 1 && y.top < x.bottom - 1)
    .map(([b]) => `${a.outerHTML} / ${b.outerHTML}`));
}"""


@in_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_can_be_read_on_a_small_screen(
    server: Running, open_page: Open, speech: Path, scheme: str
) -> None:
    view = {"width": 360, "height": 700}
    page = open_page(server.url, viewport=view, color_scheme=scheme, reduced_motion="reduce")
    hear(page, speech)
    page.set_input_files("#file", {"name": "a.txt", "mimeType": "text/plain", "buffer": b"text"})
    expect(page.locator("#error")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.evaluate(OVERLAPS) == []
    ratios = page.evaluate(CONTRAST)
    assert len(ratios) > 20
    assert [row for row in ratios if row[1] < 4.5] == []
    assert page.evaluate("document.getAnimations().length") == 0
    names = page.locator("button, input:not([hidden]), select").evaluate_all(
        "all => all.map((e) => e.ariaLabel || e.innerText || e.labels?.[0]?.innerText)"
    )
    assert all(name or name == "" for name in names), names


@in_browser
def test_the_picture_shows_the_sound(server: Running, open_page: Open, speech: Path) -> None:
    """Columns with sound are darker than those of silence, and speech has a bar below it."""
    page = open_page(server.url)
    hear(page, speech)
    start_s, end_s = edges(timeline(page))[:2]
    # a little later, all columns are drawn
    page.wait_for_timeout(500)
    look = """([start_s, end_s]) => {
      const canvas = document.getElementById("picture");
      const draw = canvas.getContext("2d");
      const mean = (time_s, top, height) => {
        const { data } = draw.getImageData(Math.round(time_s * 48), top, 4, height);
        return data.reduce((sum, x) => sum + x, 0) / data.length;
      };
      const times = [start_s / 3, (start_s + end_s) / 2];
      return [...times.map((t) => mean(t, 20, 140)), ...times.map((t) => mean(t, 180, 4))];
    }"""
    silence, sound, no_bar, bar = page.evaluate(look, [start_s, end_s])
    assert silence - sound > 20
    assert no_bar - bar > 20


@in_browser
def test_a_token_is_asked_for(open_page: Open, speech: Path, expected_rttm: Any) -> None:
    with running(["vad"], token=TOKEN) as server:
        page = open_page(server.url, ready=False)
        field = page.get_by_label("This server needs a token")
        expect(field).to_be_focused()
        assert page.locator("#microphone").is_disabled()
        field.fill("another-token-of-the-tests")
        field.press("Enter")
        expect(page.get_by_role("alert")).to_have_text("This is not the server's token.")
        field.fill("in/base64+of-the-tests==")
        field.press("Enter")
        expect(page.get_by_role("alert")).to_have_text(re.compile("^A browser cannot send this"))
        field.fill(TOKEN)
        page.get_by_role("button", name="Continue").click()
        expect(page.locator("#status")).to_have_text("Ready")
        assert not page.locator("#token-form, #error").locator("visible=true").count()
        # without a recogniser there is no text
        assert not page.locator("#text").is_visible()
        hear(page, speech)
        assert timeline(page) == expected_rttm(speech)
        assert page.locator("#save-srt").is_disabled()


@in_browser
def test_a_slow_connection_is_told_and_loses_nothing(
    server: Running, open_page: Open, spoken: Path, expected_rttm: Any
) -> None:
    script = """
      const own = Object.getOwnPropertyDescriptor(WebSocket.prototype, "bufferedAmount").get;
      window.slow = true;
      Object.defineProperty(WebSocket.prototype, "bufferedAmount", {
        get() { return window.slow ? 1e9 : own.call(this); },
      });
    """
    sound = f"--use-file-for-fake-audio-capture={spoken}%noloop"
    page = open_page(server.url, *FAKE_MICROPHONE, sound, script=script)
    page.click("#microphone")
    expect(page.locator("#status")).to_have_text(re.compile("The connection is slow: [1-9]"))
    page.wait_for_timeout(4000)
    assert page.locator("#segments li").count() == 0
    page.click("#microphone")
    expect(page.locator("#status")).to_have_text(re.compile("^Sending, "))
    page.evaluate("window.slow = false")
    expect(page.locator("#status")).to_have_text(re.compile("^Done"))
    found, wanted = edges(timeline(page)), edges(expected_rttm(spoken))
    assert found[1] - found[0] == pytest.approx(wanted[1] - wanted[0], abs=EDGE_S)


@in_browser
@pytest.mark.parametrize(
    ("host", "flags", "message"),
    [
        # headless Chromium refuses what nobody may answer
        ("127.0.0.1", ["--use-fake-device-for-media-stream"], "The microphone was refused."),
        ("127.0.0.1", ["--use-fake-ui-for-media-stream"], "There is no microphone."),
        (
            "page.test",
            [*FAKE_MICROPHONE, "--host-resolver-rules=MAP page.test 127.0.0.1"],
            "The microphone works only on https pages",
        ),
    ],
)
def test_a_microphone_that_cannot_be_used_is_told(
    open_page: Open, speech: Path, host: str, flags: list[str], message: str
) -> None:
    # other names than those of this machine need a token
    with running(["vad"], token=TOKEN) as server:
        page = open_page(server.url.replace("127.0.0.1", host), *flags, ready=False)
        page.fill("#token", TOKEN)
        page.press("#token", "Enter")
        page.click("#microphone")
        expect(page.get_by_role("alert")).to_have_text(re.compile(f"^{re.escape(message)}"))
        # a file still works
        hear(page, speech)
        assert page.locator("#error").is_hidden()


@in_browser
def test_a_file_that_is_no_sound_is_told(server: Running, open_page: Open) -> None:
    page = open_page(server.url)
    for name, content, message in (
        ("a.wav", b"no sound" * 99, "a.wav is no recording that this browser can read."),
        ("b.wav", wav([]), "b.wav has no sound in it."),
        ("c.wav", wav([0.5] * 99, 3999), "c.wav is at 3999 Hz."),
        ("d.wav", wav([0.5] * 99, 384001), "d.wav is at 384001 Hz."),
        ("e.wav", wav([0.5] * 99).replace(b"\x40\x1f\0\0", b"\0\0\0\0"), "e.wav is at 0 Hz."),
        ("f.wav", wav([0.5, np.nan], subtype="FLOAT"), "f.wav has samples far beyond ±1, or NaN."),
        ("g.wav", wav([0.5, 32767], subtype="FLOAT"), "g.wav has samples far beyond ±1, or NaN."),
    ):
        page.set_input_files("#file", {"name": name, "mimeType": "audio/wav", "buffer": content})
        expect(page.get_by_role("alert")).to_have_text(re.compile(f"^{message}"))
        assert "\n" not in page.inner_text("#error")


@in_browser
def test_a_wav_file_whose_size_is_open_is_read_to_its_end(
    server: Running,
    open_page: Open,
    spoken: Path,
    expected_rttm: Callable[..., str],
    tmp_path: Path,
) -> None:
    data = bytearray(spoken.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = bytes(4)
    # its name begins with the only dot
    file = tmp_path / ".wav"
    file.write_bytes(data)
    page = open_page(server.url)
    hear(page, file)
    assert timeline(page) == expected_rttm(file)


@in_browser
def test_a_server_that_is_full_or_gone_is_told(open_page: Open, speech: Path) -> None:
    with running(["vad"], limits=Limits(sessions=1)) as server:
        page = open_page(server.url)
        with server.listen() as first:
            json.loads(first.recv())
            page.set_input_files("#file", speech)
            expect(page.get_by_role("alert")).to_have_text(
                re.compile("^The server refused the connection")
            )
        server.wait_until_free()
        hear(page, speech)
        assert page.locator("#error").is_hidden()
    page.set_input_files("#file", speech)
    expect(page.get_by_role("alert")).to_have_text(re.compile("^The server refused the conn"))


@in_browser
def test_a_server_that_stops_ends_the_microphone(open_page: Open, spoken: Path) -> None:
    sound = f"--use-file-for-fake-audio-capture={spoken}%noloop"
    with running(["vad"]) as server:
        page = open_page(server.url, *FAKE_MICROPHONE, sound)
        page.click("#microphone")
        expect(page.locator("#segments li .length")).to_have_text([re.compile("s$")])
    expect(page.get_by_role("alert")).to_have_text(re.compile("^The server stops."))
    expect(page.get_by_role("button", name="Use the microphone")).to_be_enabled()
    expect(page.locator("#status")).to_have_text(re.compile("^Done"))
    assert len(edges(timeline(page))) == 2


@in_browser
def test_a_lost_connection_ends_the_microphone(server: Running, open_page: Open) -> None:
    script = """
      const opened = [];
      window.lose = () => opened.forEach((socket) => socket.close());
      window.WebSocket = class extends WebSocket {
        constructor(...options) { super(...options); opened.push(this); }
      };
    """
    page = open_page(server.url, *FAKE_MICROPHONE, script=script)
    page.click("#microphone")
    expect(page.locator("#status")).to_have_text("Listening, 0:01")
    page.evaluate("window.lose()")
    expect(page.get_by_role("alert")).to_have_text("The connection to the server was lost.")
    expect(page.get_by_role("button", name="Use the microphone")).to_be_enabled()
    server.wait_until_free()


@in_browser
def test_the_microphone_ends_where_the_page_keeps_no_more(server: Running, open_page: Open) -> None:
    page = open_page(server.url, *FAKE_MICROPHONE)
    text = (assets.FOLDER / "page.js").read_text()
    shorter = text.replace("LONGEST_S = 1800", "LONGEST_S = 1.2")
    assert shorter != text
    page.route(
        "**/page.js", lambda route: route.fulfill(body=shorter, content_type="text/javascript")
    )
    page.reload()
    page.click("#microphone")
    expect(page.get_by_role("alert")).to_have_text(re.compile("^The page keeps .* Save what"))
    expect(page.locator("#status")).to_have_text("Done, 0:01")


@in_browser
def test_a_server_without_a_fitting_model_is_told(open_page: Open) -> None:
    with running(["digits"]) as server:
        page = open_page(server.url, ready=False)
        expect(page.get_by_role("alert")).to_have_text(re.compile("^No model here"))
        assert page.locator("#microphone").is_disabled()
        assert page.locator("#file").is_disabled()


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder, without a log."""

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the page without a server, whose files a plain web server sends."""
    if missing := [name for name in ("emcc", "make") if not shutil.which(name)]:
        pytest.skip(f"needs {' and '.join(missing)}")
    out = tmp_path_factory.mktemp("folder")
    web = Path(__file__).parents[2] / "plugins" / "web"
    given = f"WASM={out / 'module.wasm'}", f"OUT={out / 'page'}", f"PYTHON={sys.executable}"
    subprocess.run(["make", "-C", web, "page", *given], check=True, capture_output=True)
    send = partial(Quiet, directory=str(out / "page"))
    with ThreadingHTTPServer(("127.0.0.1", 0), send) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


@in_browser
def test_without_a_server_the_page_gives_the_same(
    folder: str,
    open_page: Open,
    spoken: Path,
    command: Command,
    expected_rttm: Callable[..., str],
) -> None:
    page = open_page(folder)
    expect(page.locator("#place")).to_have_text("The sound stays in this browser.")
    hear(page, spoken)
    said = finals(command, spoken)
    assert page.inner_text("#words").strip() == " ".join(row["text"] for row in said) != ""
    assert timeline(page) == expected_rttm(spoken)
    words = [Word(**word) for row in said for word in row["words"]]
    cues = [(start_s, end_s, "\n".join(lines)) for start_s, end_s, lines in subtitles(words)]
    assert saved(page, "#save-srt") == ("spoken.srt", srt(cues).encode())


@in_browser
def test_without_a_server_the_sliders_change_the_timeline(
    folder: str, open_page: Open, spoken: Path, expected_rttm: Callable[..., str]
) -> None:
    page = open_page(folder)
    hear(page, spoken)
    wanted = expected_rttm(spoken, "--onset", 0.99, "--offset", 0.49)
    assert timeline(page) != wanted
    page.locator("#onset").fill("0.99")
    # a change is heard once more, from the beginning, a moment later
    page.wait_for_timeout(1000)
    expect(page.locator("#status")).to_have_text(re.compile("^Done"))
    assert timeline(page) == wanted


@in_browser
def test_without_a_server_the_microphone_is_heard(
    folder: str, open_page: Open, spoken: Path
) -> None:
    flags = *FAKE_MICROPHONE, f"--use-file-for-fake-audio-capture={spoken}%noloop"
    page = open_page(folder, *flags)
    page.click("#microphone")
    expect(page.locator("#words")).to_have_text(re.compile("enter five enter five"))
    page.click("#microphone")
    expect(page.locator("#status")).to_have_text(re.compile("^Done"))
    assert page.locator("#segments li").count() == 2


@in_browser
def test_a_model_that_cannot_be_loaded_is_one_line(
    folder: str, open_page: Open, spoken: Path
) -> None:
    page = open_page(folder)
    page.route("**/models/vad.safetensors", lambda route: route.abort())
    page.set_input_files("#file", spoken)
    alert = page.get_by_role("alert")
    expect(alert).to_have_text(re.compile(r"vad\.safetensors cannot be read"))
    assert "\n" not in alert.inner_text()
