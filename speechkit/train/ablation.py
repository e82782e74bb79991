"""Ablation: the same run over a grid of settings, each cell trained with several seeds."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, fields
from itertools import combinations, product
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from speechkit.checkpoint import load
from speechkit.config import check_processes, from_dict, override, write_json
from speechkit.data import read_manifest
from speechkit.errors import ConfigError
from speechkit.io.files import atomic_file
from speechkit.io.untrusted import UntrustedError, read_json
from speechkit.models import Model, build
from speechkit.models.profile import profile
from speechkit.plugins import calling, registry
from speechkit.tasks import error_of, metrics_of, outputs, task_of
from speechkit.train import Run, fit
from speechkit.train.resume import BEST, RUN

TIME = "train_s.json"
"""A file in the folder of a run that was never interrupted: its training time."""

COMMA = re.compile(r",(?!\s*[\w.]+\s*=)(?![^\[]*\])")
"""The commas between values, not those before a parameter of a component or in a list."""


@dataclass(frozen=True)
class Trial:
    """The result of one cell of the grid: an error on dev for each seed, as a fraction.

    `latency_s` is None where the net reads whole utterances. `prediction_difference` is the mean of
    ½ Σ_k |p_k − q_k| over clips or frames and over pairs of seeds, where p and q are the
    probabilities of their models; None with one seed. Shamir et al., arXiv:2010.09931. `train_s` is
    the mean over the seeds whose training was not interrupted, None if there are none.
    """

    settings: Mapping[str, str]
    parameters: int
    macs_per_s: int
    latency_s: float | None
    errors: tuple[float, ...]
    prediction_difference: float | None
    train_s: float | None

    @property
    def error(self) -> float:
        """The mean over the seeds."""
        return mean(self.errors)

    @property
    def deviation(self) -> float | None:
        """The standard deviation of the errors, of a sample; None with one seed."""
        return stdev(self.errors) if len(self.errors) > 1 else None


def axes(run: Run, given: Iterable[str]) -> dict[str, list[str]]:
    """The values of each setting, from `activation=relu,smelu:beta=0.5` and the like.

    A name that is no setting of a run is a setting of its model. Commas separate values, except
    before `name=` and in brackets: `activation=prelu:init=0.1,per_channel=false,relu` has two.
    """
    found: dict[str, list[str]] = {}
    for text in given:
        path, equals, values = map(str.strip, text.partition("="))
        if not equals or not values:
            raise ConfigError(f"--axis {text!r}: write setting=value,value")
        if path.partition(".")[0] not in {field.name for field in fields(run)}:
            path = f"model.{path}"
        found.setdefault(path, []).extend(map(str.strip, COMMA.split(values)))
    return found


def ablate(
    run: Run,
    grid: Mapping[str, Sequence[str]],
    seeds: int,
    out: Path,
    device: str = "auto",
    jobs: int = 1,
) -> Iterator[Trial]:
    """Trains `run` in each cell of `grid` with the seeds 0, 1, …, in `jobs` processes.

    `grid` has settings and values as in `--set`. A run is in `out/CELL/SEED`. Finished runs are not
    trained again, and interrupted ones are resumed. A cell is compared on its own dev set. Raises
    ConfigError for an invalid value, or two cells of one folder, before any training.
    """
    if seeds < 1 or jobs < 1 or not grid:
        raise ConfigError(f"{len(grid)} axes, {seeds} seeds, {jobs} jobs; give at least 1 of each")
    check_processes("jobs", jobs)
    cells = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    places = Counter(folder(out, cell, 0).parent for cell in cells)
    if shared := [place for place, count in places.items() if count > 1]:
        raise ConfigError(f"two cells of the grid have the folder {shared[0]}; leave one out")
    tasks = [
        (override(run, [*map("=".join, cell.items()), f"seed={seed}"]), folder(out, cell, seed))
        for cell in cells
        for seed in range(seeds)
    ]
    for variant, _ in tasks[::seeds]:
        build(variant.model)
    with ExitStack() as stack:
        each: Any = map
        if jobs > 1:
            threads = max(1, torch.get_num_threads() // jobs)
            pool = ProcessPoolExecutor(
                jobs, get_context("spawn"), _begin, (threads, registry().files)
            )
            stack.callback(pool.shutdown, cancel_futures=True)
            each = pool.map
        trained = each(_train, *zip(*tasks, strict=True), [device] * len(tasks))
        for cell, (variant, _) in zip(cells, tasks[::seeds], strict=True):
            yield judged(cell, [next(trained) for _ in range(seeds)], variant.data.dev)


def folder(out: Path, cell: Mapping[str, str], seed: int) -> Path:
    """The folder of one run of the grid."""
    return out / re.sub(r"[^\w.=+,-]+", "_", ",".join(map("=".join, cell.items()))) / str(seed)


def _begin(threads: int, plugins: list[Path]) -> None:
    """Gives a new process the threads and plugins of its parent."""
    torch.set_num_threads(threads)
    for path in plugins:
        registry().load_file(path)


def _train(run: Run, out: Path, device: str) -> Path:
    """Trains a run if it is not finished, and stores its time if it was not interrupted."""
    begun = (out / RUN).is_file()
    at_s = perf_counter()
    fit(run, out, resume=begun, device=device)
    if not begun:
        with atomic_file(out / TIME) as part:
            write_json(part, perf_counter() - at_s)
    return out


def judged(cell: Mapping[str, str], folders: Sequence[Path], dev: Path) -> Trial:
    """The trial of runs that differ only in their seeds."""
    models = [load(folder / BEST) for folder in folders]
    found = [error_and_probabilities(model, dev) for model in models]
    errors, scores = zip(*found, strict=True)
    differences = [0.5 * (p - q).abs().sum(1).mean().item() for p, q in combinations(scores, 2)]
    times = [folder / TIME for folder in folders if (folder / TIME).is_file()]
    figures = profile(models[0])
    return Trial(
        settings=cell,
        parameters=figures.parameters,
        macs_per_s=figures.macs_per_s,
        latency_s=figures.latency_s,
        errors=errors,
        prediction_difference=mean(differences) if differences else None,
        train_s=mean(map(_seconds, times)) if times else None,
    )


def _seconds(path: Path) -> float:
    """The training time of a run; ConfigError where its file is damaged."""
    try:
        stored = read_json(path)
    except UntrustedError as error:
        raise ConfigError(f"{path}: {error}; delete it and the figure is left out") from error
    seconds: float = from_dict(float, stored, str(path))
    return seconds


def error_and_probabilities(model: Model, dev: Path) -> tuple[float, Tensor]:
    """A model's error on a manifest, and its probabilities `[N, V]` in one order for all models."""
    task = task_of(model)
    references: list[Any] = []
    predictions: list[Any] = []
    every: list[Tensor] = []
    for batch, output in outputs(model, task, read_manifest(dev)):
        with calling(task.component, "references"):
            references += task.references(batch, output)
        with calling(task.component, "predictions"):
            predictions += task.predictions(output)
        probabilities = output.scores.softmax(-1)
        if output.scores.dim() == 2:
            every.append(probabilities)
        else:
            every += [row[:n] for row, n in zip(probabilities, output.lengths, strict=True)]
    return error_of(task, metrics_of(task, references, predictions)), torch.cat(every)
