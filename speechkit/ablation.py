"""Ablation: the same run with one setting changed, each value trained with several seeds."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import mean

from speechkit.checkpoint import load
from speechkit.config import override
from speechkit.data import read_manifest
from speechkit.errors import ConfigError
from speechkit.evaluation import outputs
from speechkit.models import Model, build
from speechkit.models.profile import why_not_streamable
from speechkit.resume import BEST, RUN
from speechkit.tasks import task_of
from speechkit.train import Run, fit


@dataclass(frozen=True)
class Trial:
    """What one value reached: an error on dev for each seed, as a fraction.

    `latency_s` is None where the net reads whole utterances. `disagreement` is the share of dev
    utterances to which models of two seeds answer differently, averaged over pairs of seeds, the
    prediction difference of arXiv:2102.03349; None with one seed, and for answers per frame.
    """

    value: str
    parameters: int
    latency_s: float | None
    errors: tuple[float, ...]
    disagreement: float | None

    @property
    def error(self) -> float:
        """The mean over the seeds."""
        return mean(self.errors)


def ablate(
    run: Run, path: str, values: Sequence[str], seeds: int, out: Path, device: str = "auto"
) -> Iterator[Trial]:
    """Trains `run` with each of `values` at `path`, as `--set` takes them, and seeds 0, 1, …

    A run is in `out/VALUE/SEED`; those that are finished are not trained again, those that were
    interrupted go on. ConfigError for a value that the setting does not take, before anything is
    trained.
    """
    if seeds < 1 or not values:
        raise ConfigError(f"{len(values)} values and {seeds} seeds; give at least one of each")
    runs = {
        value: [override(run, [f"{path}={value}", f"seed={seed}"]) for seed in range(seeds)]
        for value in values
    }
    for seeded in runs.values():
        build(seeded[0].model)
    for value, seeded in runs.items():
        folders = [out / folder_name(value) / str(variant.seed) for variant in seeded]
        for variant, folder in zip(seeded, folders, strict=True):
            fit(variant, folder, resume=(folder / RUN).is_file(), device=device)
        yield judged(value, [load(folder / BEST) for folder in folders], run.data.dev)


def folder_name(value: str) -> str:
    """A value as the name of a folder."""
    return re.sub(r"[^\w.=+-]+", "_", value)


def judged(value: str, models: Sequence[Model], dev: Path) -> Trial:
    """The trial of models that differ in their seeds alone."""
    found = [answers(model, dev) for model in models]
    comparable = all(isinstance(said, str | int) for _, each in found for said in each)
    pairs = [
        mean(one != other for one, other in zip(a, b, strict=True))
        for (_, a), (_, b) in combinations(found, 2)
    ]
    model = models[0]
    return Trial(
        value,
        sum(parameter.numel() for parameter in model.parameters()),
        None if why_not_streamable(model) else model.latency_s,
        tuple(error for error, _ in found),
        mean(pairs) if pairs and comparable else None,
    )


def answers(model: Model, dev: Path) -> tuple[float, list[object]]:
    """A model's error on a manifest, and its answers in one order for all models."""
    task = task_of(model)
    expected: list[object] = []
    said: list[object] = []
    for batch, output in outputs(model, task, read_manifest(dev)):
        expected += task.references(batch, output)
        said += task.answers(output)
    return task.error(task.marks(expected, said)), said
