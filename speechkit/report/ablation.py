"""The report of an ablation: a row for each cell, and a page with plots."""

from collections.abc import Iterable, Mapping, Sequence

from speechkit.report.page import bars, page, spread, table
from speechkit.train.ablation import Trial

FIGURES = (
    "parameters",
    "MMAC/s",
    "latency, s",
    "error",
    "± sd",
    "of the seeds",
    "prediction difference",
    "training, s",
)


def head(settings: Iterable[str]) -> list[str]:
    """The names of the columns, for the grid's settings."""
    return [*(path.removeprefix("model.") for path in settings), *FIGURES]


def cells(trial: Trial) -> list[str]:
    """A trial's row."""
    return [
        *trial.settings.values(),
        f"{trial.parameters:,}",
        f"{trial.macs_per_s / 1e6:.1f}",
        "whole utterances" if trial.latency_s is None else f"{trial.latency_s:.2f}",
        f"{trial.error:.3f}",
        "" if trial.deviation is None else f"{trial.deviation:.3f}",
        " ".join(f"{error:.3f}" for error in trial.errors),
        "" if trial.prediction_difference is None else f"{trial.prediction_difference:.3f}",
        "" if trial.train_s is None else f"{trial.train_s:.0f}",
    ]


def ablation_page(title: str, trials: Sequence[Trial]) -> str:
    """The page: the table, the error of each seed, and the size and work of the cells."""
    names = [", ".join(trial.settings.values()) for trial in trials]
    errors = {name: trial.errors for name, trial in zip(names, trials, strict=True)}
    sections = [
        ("Cells", table(head(trials[0].settings), [cells(trial) for trial in trials])),
        ("Errors of the seeds, and their mean", spread(errors)),
    ]
    plots: Mapping[str, list[float | None]] = {
        "Prediction difference": [trial.prediction_difference for trial in trials],
        "Training, s": [trial.train_s for trial in trials],
        "MMAC/s": [trial.macs_per_s / 1e6 for trial in trials],
    }
    for name, values in plots.items():
        known = {name: x for name, x in zip(names, values, strict=True) if x is not None}
        if known:
            sections.append((name, bars(known)))
    return page(title, {}, sections)
