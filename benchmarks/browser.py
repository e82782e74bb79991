"""A step of `vad` in WebAssembly, and of silero-vad through onnxruntime-web, in one browser.

npm install --prefix /tmp/peers onnxruntime-web
python -m benchmarks.browser /tmp/peers/node_modules/onnxruntime-web

Both run on one thread of headless Chromium, in turns over the same recording. Nothing is timed
unless silero's probabilities are those of onnxruntime in Python. Needs the extra `dev`.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.chromium import answer_of
from benchmarks.detection import silero_folder
from benchmarks.inputs import speech
from benchmarks.silero import SAMPLE_RATE, STEP, Silero

OURS = "speechkit vad"
NETS = "silero_vad.onnx", "silero_vad_16k_op15.onnx"
"""The default net, and the one for 16 kHz alone."""
BLOCKS_S = {OURS: 0.02, **dict.fromkeys(NETS, STEP / SAMPLE_RATE)}
SOUND_S = 4.0
PLAN = "/speechkit/bundled/models/vad/plan.safetensors"
SAME = 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ort", type=Path, help="the folder of the npm package onnxruntime-web")
    parser.add_argument("--silero", type=Path, help="the folder of silero_vad.onnx")
    parser.add_argument("--rounds", type=int, default=41)
    options = parser.parse_args()
    nets, x = options.silero or silero_folder(), speech(SOUND_S)
    with tempfile.TemporaryDirectory() as own:
        x.tofile(Path(own) / "sound.raw")
        answer = answer_of(
            "benchmarks/browser.html",
            {"rounds": options.rounds, "plan": PLAN, "nets": NETS},
            {"ort": options.ort, "silero": nets, "own": Path(own)},
            longest_s=600,
        )
    if "error" in answer:
        sys.exit(answer["error"])
    for name in NETS:
        off = np.abs(np.array(answer["probabilities"][name]) - Silero(nets / name).probabilities(x))
        if not off.max() <= SAME:
            sys.exit(f"{name} is off by {off.max():.0e} in the browser")
    print(answer["browser"])
    medians_ms = {name: float(np.median(times)) for name, times in answer["times"].items()}
    for name, median_ms in medians_ms.items():
        block_s = BLOCKS_S[name]
        print(
            f"{name}: {1000 * median_ms * block_s / SOUND_S:.0f} µs for a block of "
            f"{1000 * block_s:.0f} ms, {median_ms / SOUND_S:.2f} ms for a second of sound, "
            f"{median_ms / medians_ms[OURS]:.1f} times ours"
        )


if __name__ == "__main__":
    main()
