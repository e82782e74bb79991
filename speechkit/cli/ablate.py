"""`speechkit ablate`: a recipe with one setting changed, as a table of what each value reached."""

import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from speechkit.cli.options import Json
from speechkit.cli.output import show
from speechkit.cli.train import load_run

if TYPE_CHECKING:
    from speechkit.ablation import Trial

HEADER = (
    "| value | parameters | latency, s | error | of the seeds | disagreement |\n" + 6 * "|---" + "|"
)


def ablate(
    recipe: Annotated[str, typer.Argument(metavar="RUN.py[:function]", help="What to train.")],
    path: Annotated[str, typer.Argument(help="The setting, such as model.activation.")],
    values: Annotated[list[str], typer.Argument(help="What to set it to, one after the other.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the runs are written.")],
    seeds: Annotated[int, typer.Option(min=1, help="How often each value is trained.")] = 3,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Change a setting of all runs."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    as_json: Json = False,
) -> None:
    """Train a run with each of several values of one setting, and compare them on dev."""
    from speechkit.ablation import ablate as trials
    from speechkit.config import override

    _, run = load_run(recipe)
    run = override(run, assignments or [])
    for number, trial in enumerate(_quietly(trials(run, path, values, seeds, out, device))):
        if number == 0 and not as_json:
            print(HEADER, flush=True)
        show({**asdict(trial), "error": trial.error}, row(trial), as_json)


def _quietly(trials: Iterator["Trial"]) -> Iterator["Trial"]:
    """The same; the progress bars, which are for people, must not come between the rows."""
    while True:
        with redirect_stdout(sys.stderr):
            trial = next(trials, None)
        if trial is None:
            return
        yield trial


def row(trial: "Trial") -> str:
    """A line of the table."""
    latency = "whole utterances" if trial.latency_s is None else f"{trial.latency_s:.2f}"
    seeds = " ".join(f"{error:.3f}" for error in trial.errors)
    differs = "" if trial.disagreement is None else f"{trial.disagreement:.3f}"
    return (
        f"| `{trial.value}` | {trial.parameters:,} | {latency} | {trial.error:.3f} | {seeds} "
        f"| {differs} |"
    )
