"""Checks before anything is timed: the tests pass, and the outputs agree."""

import math
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.registry import Absent, Benchmark, Contestant, Output, Run
from speechkit.errors import SpeechkitError

ROOT = Path(__file__).parents[1]
TESTS = (
    "tests/ops",
    "tests/plans/test_sparse.py",
    "tests/streaming/engines/native/test_layer.py",
)


def run_tests() -> bool:
    """True if the tests of the timed code pass; their output is shown."""
    return not subprocess.run([sys.executable, "-m", "pytest", *TESTS], cwd=ROOT).returncode


def admitted(benchmark: Benchmark) -> tuple[dict[str, Run], dict[str, str]]:
    """The contestants to time, and for each other one the reason in a line."""
    runs: dict[str, Run] = {}
    refused: dict[str, str] = {}
    baseline: Output | None = None
    for contestant in benchmark.contestants:
        try:
            run = contestant.build()
            if contestant is benchmark.contestants[0] and not contestant.reference:
                baseline = run()
            elif complaint := _complaint(contestant, run, baseline):
                refused[contestant.name] = f"wrong: {complaint}"
                continue
            runs[contestant.name] = run
        except (Absent, SpeechkitError) as reason:
            refused[contestant.name] = f"absent: {reason}"
    return runs, refused


def _complaint(contestant: Contestant, run: Run, baseline: Output | None) -> str | None:
    """The error of a contestant's output, if any."""
    allowed = contestant.tolerance
    if allowed == math.inf:
        return None
    expected = contestant.reference() if contestant.reference else baseline
    if expected is None:
        return "there is no baseline to compare it with"
    off = differences(run(), expected)
    each = allowed if isinstance(allowed, tuple) else (allowed,) * len(off)
    for one, most in zip(off, each, strict=True):
        if one > most:
            return f"off by {one:.2g} of the largest value, {most:g} is allowed"
    return None


@torch.no_grad()
def differences(y: Output, expected: Output) -> list[float]:
    """Each tensor's largest difference relative to the largest expected value."""
    ours, theirs = (x if isinstance(x, tuple) else (x,) for x in (y, expected))
    return [_difference(a.double(), b.double()) for a, b in zip(ours, theirs, strict=True)]


def _difference(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return math.inf
    off = float((a - b).abs().max() / b.abs().max())
    # comparisons with NaN are false
    return math.inf if math.isnan(off) else off
