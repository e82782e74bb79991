"""Cold starts: a new process that reads a clip and prints the segments of speech.

With --long also in new environments, which contain only what each contestant needs.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache, partial
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
SILERO, OURS = "silero-vad through onnxruntime", "speechkit vad"
CLIP_S, HOUR_S = 5.0, 3600.0


def benchmarks(options: Options) -> list[Benchmark]:
    return [
        Benchmark(
            "start/vad",
            f"a new process that prints the speech in {CLIP_S:g} s of sound",
            (
                Contestant(SILERO, silero, inf),
                Contestant(OURS, speechkit, 1e-6, segments),
            ),
        ),
        Benchmark(
            "start/installed",
            "the same in an environment that contains nothing else",
            (
                Contestant(SILERO, partial(alone, options, silero, peer_environment), inf),
                Contestant(OURS, partial(alone, options, speechkit, environment), 1e-6, segments),
            ),
        ),
        Benchmark(
            "start/size",
            "the files of that environment, without Python itself",
            (
                Contestant(SILERO, partial(alone, options, size, peer_environment), inf),
                Contestant(OURS, partial(alone, options, size, environment), inf),
            ),
            measure=lambda run: float(torch.as_tensor(run())),
            unit="MB",
            repeat=False,
        ),
        Benchmark(
            "start/memory",
            "the most memory of a process for an hour of audio",
            (Contestant(OURS, partial(an_hour, options), inf),),
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


def silero(programs: Path = BIN) -> Run:
    net = silero_folder() / "silero_vad.onnx"
    command = (programs / "python", HERE / "silero.py", net, clip(CLIP_S))
    return lambda: torch.tensor(printed(*command))


def speechkit(programs: Path = BIN) -> Run:
    command = (programs / "speechkit", "vad", "--json", clip(CLIP_S))
    return lambda: torch.tensor(printed(*command)["segments"])


def alone(options: Options, what: Callable[[Path], Run], made: Callable[[], Path]) -> Run:
    """A run in an environment that is made for it."""
    if not options.long:
        raise Absent("it takes minutes; give --long")
    return what(made())


@cache
def environment() -> Path:
    """The programs of an environment with speechkit's wheel and what it needs."""
    wheels = TEMPORARY / "wheels"
    shutil.rmtree(wheels, ignore_errors=True)
    required("-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels))
    (wheel,) = wheels.iterdir()
    return made_environment("speechkit", str(wheel))


@cache
def peer_environment() -> Path:
    """The programs of an environment with what benchmarks/silero.py imports."""
    return made_environment("onnxruntime", "numpy", "soundfile", "onnxruntime")


def made_environment(name: str, *packages: str) -> Path:
    folder = TEMPORARY / f"environment-{name}"
    required("-m", "venv", "--clear", "--without-pip", str(folder))
    programs = folder / BIN.name
    pip = ("-m", "pip", "--python", str(programs / "python"), "install", "-q")
    required(*pip, "-c", "constraints.txt", *packages)
    return programs


def required(*arguments: str) -> None:
    """Runs Python in the root of the tree; Absent where it fails."""
    done = subprocess.run((sys.executable, *arguments), cwd=HERE.parent, capture_output=True)
    if done.returncode:
        raise Absent(f"{' '.join(arguments[:2])} failed: {done.stderr.decode().splitlines()[-1]}")


def size(programs: Path) -> Run:
    """The size of an environment's files in MB."""
    files = [
        path for path in programs.parent.rglob("*") if path.is_file() and not path.is_symlink()
    ]
    total = sum(path.stat().st_size for path in files)
    return lambda: torch.tensor(total / 1e6)


def segments() -> Tensor:
    """The expected output."""
    found = sk.detect(sk.load("vad"), clip(CLIP_S))
    return torch.tensor([[round(s.start_s, 6), round(s.end_s, 6)] for s in found])


def an_hour(options: Options) -> Run:
    if not options.long:
        raise Absent("it takes a minute; give --long")
    command = (sys.executable, HERE / "peak.py", BIN / "speechkit", "vad", clip(HOUR_S))
    return lambda: torch.tensor(printed(*command))
