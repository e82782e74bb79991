"""Training runs for tests: stopped and resumed ones, and ones in two processes."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

from speechkit.config import to_dict, write_json
from speechkit.hookspecs import hookimpl
from speechkit.plugins import registry
from speechkit.train import Run, fit

FILES = (
    "last/model.safetensors",
    "last/training/weights.safetensors",
    "last/training/optimizer.safetensors",
    "last/training/rng.safetensors",
    "best/model.safetensors",
    "metrics.jsonl",
)
"""The files of a run that equal runs write alike."""


class _StopError(Exception):
    pass


@contextmanager
def stopped(at: int) -> Iterator[None]:
    """Ends a run in the hook after step `at`, before that step is saved."""

    @hookimpl
    def speechkit_run_step(run: Run, step: int, loss: float) -> None:
        if step == at:
            raise _StopError

    manager = registry().manager
    stopper = SimpleNamespace(speechkit_run_step=speechkit_run_step)
    manager.register(stopper)
    try:
        yield
    except _StopError:
        pass
    finally:
        manager.unregister(stopper)


def fit_in_parts(run: Run, out: Path, at: int = 3) -> None:
    """Trains a run that is stopped after step `at`, and then resumed."""
    with stopped(at):
        fit(run, out, device="cpu")
    fit(run, out, resume=True, device="cpu")


def fit_in_two(
    folder: Path, *runs: tuple[Run, str, bool], plugins: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Trains runs one after the other, each by two processes on the CPU.

    A run has the name of its output in `folder`, and whether it is resumed. `plugins` is
    SPEECHKIT_PLUGINS of the processes, if it is another one.
    """
    rows = [(to_dict(run), str(folder / out), resume) for run, out, resume in runs]
    write_json(folder / "runs.json", rows)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "speechkit.testing.pair"]
    changed = {} if plugins is None else {"SPEECHKIT_PLUGINS": plugins}
    return subprocess.run(
        [*command, str(folder / "runs.json")],
        env={**os.environ, **changed},
        capture_output=True,
        text=True,
    )


def assert_same_files(one: Path, other: Path, files: tuple[str, ...] = FILES) -> None:
    """Asserts that two runs wrote the same bytes."""
    for file in files:
        assert (one / file).read_bytes() == (other / file).read_bytes(), file
