"""Times contestants in turns, and compares their medians."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from benchmarks.registry import Benchmark, Figure, Run
from benchmarks.verify import admitted


def timed(benchmark: Benchmark, rounds: int) -> dict[str, Figure]:
    """The figure of each contestant, in the benchmark's order."""
    runs, refused = admitted(benchmark)
    samples = interleaved(runs, rounds if benchmark.repeat else 1, benchmark.measure)
    found = figures(benchmark, samples, refused)
    if not benchmark.note:
        return found
    return found | {
        name: replace(found[name], note=benchmark.note(run)) for name, run in runs.items()
    }


def interleaved(
    runs: dict[str, Run], rounds: int, measure: Callable[[Run], float]
) -> dict[str, list[float]]:
    """The figures of each contestant in each round; each round starts with another contestant."""
    samples: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for index in range(rounds):
        first = index % max(1, len(names))
        for name in names[first:] + names[:first]:
            samples[name].append(measure(runs[name]))
    return samples


def figures(
    benchmark: Benchmark, samples: dict[str, list[float]], refused: dict[str, str]
) -> dict[str, Figure]:
    """Medians, 10th percentiles and ratios of samples."""
    medians = {c.name: _quantile(samples, c.name, 0.5, c.units) for c in benchmark.contestants}
    baseline = medians[benchmark.contestants[0].name]
    found = {}
    for c in benchmark.contestants:
        median = medians[c.name]
        if median is None:
            found[c.name] = Figure(refused=refused[c.name])
            continue
        found[c.name] = Figure(
            median=median,
            p10=_quantile(samples, c.name, 0.1, c.units),
            ratio=baseline and baseline / median,
            rtf=benchmark.audio_s and median / 1000 / benchmark.audio_s,
        )
    return found


def _quantile(
    samples: dict[str, list[float]], name: str, quantile: float, units: int
) -> float | None:
    return float(np.quantile(samples[name], quantile)) / units if name in samples else None
