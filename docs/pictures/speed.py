"""The chart of speed beside other packages, from a run of the benchmarks in speed.json."""

import json
from pathlib import Path

from pictures.svg import box, picture, text

FIGURES = Path(__file__).with_name("speed.json")
PANELS = {
    "detection/vad": (
        "Live voice activity detection: 1.92 s of sound, in pieces of 32 ms",
        {
            "silero-vad, 32 ms": "silero-vad (ONNX Runtime)",
            "webrtcvad, 30 ms": "webrtcvad, pieces of 30 ms",
            "speechkit, 32 ms": "speechkit",
        },
    ),
    "streaming/quartznet-80": (
        "Live recognition: QuartzNet 5x5, causal, a step of 80 ms",
        {
            "torch": "torch",
            "OpenVINO": "OpenVINO",
            "onnxruntime": "ONNX Runtime",
            "speechkit": "speechkit",
        },
    ),
    "offline/15x5-1": (
        "A whole recording: QuartzNet 15x5, 10 s",
        {
            "plain conv1d": "torch",
            "onnxruntime": "ONNX Runtime",
            "OpenVINO": "OpenVINO",
            "speechkit prepared": "speechkit",
        },
    ),
}
"""A heading for each benchmark, and the names of the contestants that are drawn; all in float32."""
STYLE = """
.peer { fill: #afb8c1 }
.own { fill: #0969da }
@media (prefers-color-scheme: dark) { .peer { fill: #656c76 } .own { fill: #4493f8 } }
"""
WIDTH, LEFT, LONGEST, ROW = 880, 250, 510, 28


def draw() -> str:
    """Bars of milliseconds, a scale for each panel."""
    result = json.loads(FIGURES.read_text(encoding="utf-8"))
    parts, y = [text(24, 34, "Milliseconds of processor time, shorter is faster", "title")], 34
    for name, (heading, names) in PANELS.items():
        contestants = result["benchmarks"][name]["contestants"]
        longest_ms = max(contestants[contestant]["median"] for contestant in names)
        y += 40
        parts.append(text(24, y, heading))
        y += 10
        for contestant, shown in names.items():
            ms = contestants[contestant]["median"]
            length = LONGEST * ms / longest_ms
            parts += [
                text(LEFT - 10, y + 17, shown, "quiet", "end"),
                box(LEFT, y + 3, length, ROW - 8, "own" if shown == "speechkit" else "peer"),
                text(LEFT + length + 8, y + 17, f"{ms:.3g} ms"),
            ]
            y += ROW
    date, load = result["date"][:10], result["load"][0]
    about = f"{date}, {result['processor']}, one thread, float32, commit {result['commit']}"
    parts.append(text(24, y + 32, f"{about}, load {load} on {result['cores']} cores", "quiet"))
    return picture(WIDTH, y + 52, "Speed of speechkit and of other packages", parts, STYLE)
