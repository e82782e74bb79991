"""A recording of `speechkit listen` in a terminal, as a picture that moves: `make film`.

Bundled clips are played to it. What a command prints comes when it came in the recording, the time
to start included; only the typing is invented.
"""

import os
import pty
import re
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from html import escape
from pathlib import Path

import numpy as np
import pyte
import soundfile
from numpy.typing import NDArray

import speechkit
from pictures.svg import picture
from speechkit.data import read_samples

TARGET = Path(__file__).with_name("terminal.svg")
COMMANDS = (
    "speechkit listen --file clip.opus --realtime",
    "speechkit listen --model an4 --file talk.wav --realtime",
)
COLUMNS, ROWS = 88, 13
KEY_S, PAUSE_S, HOLD_S = 0.03, 0.5, 3.0
"""From key to key, between commands, and at the end before it starts again."""
FRAME_S = 0.08
"""The shortest time that a frame is shown."""
CELL, LINE, EDGE = 8.4, 20, 20
STYLE = """
.paper { fill: #0d1117; stroke: #3d444d }
text { font: 14px ui-monospace, Menlo, Consolas, monospace; fill: #e6edf3 }
text { white-space: pre }
.level { fill: #3fb950 }
.faint { fill: #656c76 }
.typed { fill: #79c0ff }
"""
PARTS = re.compile(r"(?P<level>█+)|(?P<faint>·+)|(?P<typed>(?<=^\$ ).*)")


def main() -> None:
    """Records the commands and writes the picture."""
    with tempfile.TemporaryDirectory() as folder:
        write_sounds(Path(folder))
        frames = thinned(list(film(Path(folder))))
    TARGET.write_text(draw(frames), encoding="utf-8")


def write_sounds(folder: Path) -> None:
    """clip.opus, "enter five"; and talk.wav, the same with four digits after it."""
    clips = Path(speechkit.__file__).parent / "bundled" / "clips"
    (folder / "clip.opus").write_bytes((clips / "an4_ffmm.opus").read_bytes())
    random = np.random.default_rng(0)

    def pause(duration_s: float) -> NDArray[np.float32]:
        return random.normal(0, 1e-3, round(16000 * duration_s)).astype(np.float32)

    talk = [pause(0.6), read_samples(folder / "clip.opus", target_rate=16000), pause(1.3)]
    for name in ("2_lucas_2", "7_lucas_2", "9_theo_4", "4_theo_4"):
        talk += [read_samples(clips / f"{name}.flac", target_rate=16000), pause(0.35)]
    soundfile.write(folder / "talk.wav", np.concatenate([*talk, pause(1)]), 16000)


def film(folder: Path) -> Iterator[tuple[float, tuple[str, ...]]]:
    """The lines of the terminal whenever they change, with the time in seconds."""
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    now_s = 0.0
    for command in COMMANDS:
        stream.feed(b"$ ")
        for key in command:
            stream.feed(key.encode())
            now_s += KEY_S
            yield now_s, tuple(screen.display)
        stream.feed(b"\r\n")
        after_s = 0.0
        for after_s, printed in recorded(command, folder):
            stream.feed(printed)
            yield now_s + after_s, tuple(screen.display)
        now_s += after_s + PAUSE_S
    yield now_s, tuple(screen.display)


def recorded(command: str, folder: Path) -> Iterator[tuple[float, bytes]]:
    """What a command prints on a terminal, and how many seconds after its start."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (ROWS, COLUMNS))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "TERM": "xterm"}
    began_s = time.monotonic()
    process = subprocess.Popen(
        command.split(), cwd=folder, env=environment, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    while printed := _read(ours):
        yield time.monotonic() - began_s, printed
    os.close(ours)
    if process.wait() != 0:
        sys.exit(f"{command} failed")


def _read(terminal: int) -> bytes:
    """The next bytes; none at the end, which Linux reports as an error."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""


def thinned(frames: list[tuple[float, tuple[str, ...]]]) -> list[tuple[float, tuple[str, ...]]]:
    """The frames that differ from the one before, the last of each `FRAME_S`."""
    kept: list[tuple[float, tuple[str, ...]]] = []
    for time_s, lines in frames:
        if kept and time_s - kept[-1][0] < FRAME_S:
            kept[-1] = kept[-1][0], lines
        elif not kept or kept[-1][1] != lines:
            kept.append((time_s, lines))
    return kept


def draw(frames: list[tuple[float, tuple[str, ...]]]) -> str:
    """The frames beside each other on a strip, which moves by one frame at a time."""
    width, height = round(COLUMNS * CELL), ROWS * LINE
    pitch = width + EDGE
    names: dict[str, str] = {}
    strip = []
    for number, (_, lines) in enumerate(frames):
        rows = [
            f'<use href="#{names.setdefault(line.rstrip(), f"t{len(names)}")}" y="{LINE * row}"/>'
            for row, line in enumerate(lines)
            if line.strip()
        ]
        strip.append(f'<g transform="translate({number * pitch})">{"".join(rows)}</g>')
    end_s = frames[-1][0] + HOLD_S
    stops = [
        f"{100 * time_s / end_s:.2f}% {{ transform: translate(-{number * pitch}px) }}"
        for number, (time_s, _) in enumerate(frames)
    ]
    stops[0] = f"0%, {stops[0]}"
    still = f"transform: translate(-{(len(frames) - 1) * pitch}px)"
    style = (
        f"{STYLE}@keyframes film {{ {' '.join(stops)} }}\n"
        f".film {{ animation: film {end_s:.1f}s step-end infinite }}\n"
        f"@media (prefers-reduced-motion) {{ .film {{ animation: none; {still} }} }}\n"
    )
    parts = [
        "<defs>",
        *(row(line, name) for line, name in names.items()),
        "</defs>",
        f'<svg x="{EDGE}" y="{EDGE}" width="{width}" height="{height}"><g class="film">',
        *strip,
        "</g></svg>",
    ]
    name = "speechkit listen in a terminal: the times of speech, then its text"
    return picture(width + 2 * EDGE, height + 2 * EDGE, name, parts, style)


def row(line: str, name: str) -> str:
    """A line of the terminal; its width is fixed, whatever font the reader has."""
    spans, at = [], 0
    for found in PARTS.finditer(line):
        spans.append(escape(line[at : found.start()]))
        spans.append(f'<tspan class="{found.lastgroup}">{escape(found[0])}</tspan>')
        at = found.end()
    spans.append(escape(line[at:]))
    length = f'textLength="{len(line) * CELL:.1f}" lengthAdjust="spacingAndGlyphs"'
    return f'<text id="{name}" y="15" {length}>{"".join(spans)}</text>'


if __name__ == "__main__":
    main()
