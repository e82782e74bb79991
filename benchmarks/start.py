"""Cold starts: a new process that reads a clip and prints the segments of speech."""

import json
import subprocess
import sys
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import soundfile
import torch
from torch import Tensor

import speechkit as sk
from benchmarks.detection import silero_folder
from benchmarks.inputs import SAMPLE_RATE, speech
from benchmarks.registry import TEMPORARY, Absent, Benchmark, Contestant, Options, Run

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
CLIP_S, HOUR_S = 5.0, 3600.0


def benchmarks(options: Options) -> list[Benchmark]:
    return [
        Benchmark(
            "start/vad",
            f"a process, from nothing to the speech in {CLIP_S:g} s",
            (
                Contestant("silero-vad through onnxruntime", silero, inf),
                Contestant("speechkit vad", speechkit, 1e-6, segments),
            ),
        ),
        Benchmark(
            "start/memory",
            "the most memory of a process for an hour of audio",
            (Contestant("speechkit vad", partial(an_hour, options), inf),),
            measure=lambda run: float(torch.as_tensor(run())),
            unit="MiB",
            repeat=False,
        ),
    ]


def clip(duration_s: float) -> Path:
    path = TEMPORARY / f"{duration_s:g}s.wav"
    if not path.exists():
        TEMPORARY.mkdir(exist_ok=True)
        soundfile.write(path, speech(duration_s), SAMPLE_RATE)
    return path


def printed(*command: str | Path) -> Any:
    """The JSON that a command prints."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Absent(f"{command[0]} failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


def silero() -> Run:
    net = silero_folder() / "silero_vad.onnx"
    command = (sys.executable, HERE / "silero.py", net, clip(CLIP_S))
    return lambda: torch.tensor(printed(*command))


def speechkit() -> Run:
    command = (BIN / "speechkit", "vad", "--json", clip(CLIP_S))
    return lambda: torch.tensor(printed(*command)["segments"])


def segments() -> Tensor:
    """The expected output."""
    found = sk.detect(sk.load("vad"), clip(CLIP_S))
    return torch.tensor([[round(s.start_s, 6), round(s.end_s, 6)] for s in found])


def an_hour(options: Options) -> Run:
    if not options.long:
        raise Absent("it takes a minute; give --long")
    command = (sys.executable, HERE / "peak.py", BIN / "speechkit", "vad", clip(HOUR_S))
    return lambda: torch.tensor(printed(*command))
