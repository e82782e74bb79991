"""`speechkit ablate`: trains a recipe over a grid of settings and prints a table of results."""

import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from speechkit.cli.options import Json
from speechkit.cli.output import say, show
from speechkit.cli.train import load_run
from speechkit.errors import ConfigError
from speechkit.io.files import atomic_file

if TYPE_CHECKING:
    from speechkit.train.ablation import Trial

PAGE = "ablation.html"


def ablate(
    recipe: Annotated[str, typer.Argument(metavar="RUN.py[:function]", help="What to train.")],
    axis: Annotated[
        list[str],
        typer.Option(metavar="SETTING=VALUE,VALUE", help="What to vary: activation=relu,silu."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", show_default="runs/FUNCTION_ablation", help="Where to write."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How often each cell is trained.")] = 3,
    jobs: Annotated[int, typer.Option(min=1, help="How many runs are trained at a time.")] = 1,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Change a setting of all runs."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    as_json: Json = False,
) -> None:
    """Train a run with all combinations of some settings' values, and compare them on dev."""
    from speechkit.config import override
    from speechkit.report.ablation import ablation_page, cells, head
    from speechkit.train.ablation import ablate as trials_of
    from speechkit.train.ablation import axes
    from speechkit.train.run import assigned

    name, run = load_run(recipe)
    given = [text.partition("=")[0].strip() for text in [*axis, *(assignments or [])]]
    if "seed" in given:
        raise ConfigError("ablate trains with the seeds 0, 1, …; give their number as --seeds")
    run = override(run, assigned(assignments or []))
    grid = axes(run, axis)
    out = out or Path("runs") / f"{name}_ablation"
    trials: list[Trial] = []
    for trial in _quietly(trials_of(run, grid, seeds, out, device, jobs)):
        if not trials and not as_json:
            names = head(grid)
            say(f"{line(names)}\n{line(['---'] * len(names))}")
        trials.append(trial)
        row = {**asdict(trial), "error": trial.error, "deviation": trial.deviation}
        values = [f"`{value}`" for value in trial.settings.values()]
        show(row, line([*values, *cells(trial)[len(values) :]]), as_json)
        with atomic_file(out / PAGE) as part:
            part.write_text(ablation_page(f"Ablation of {recipe}", trials), encoding="utf-8")


def _quietly(trials: Iterator["Trial"]) -> Iterator["Trial"]:
    """The trials, without progress bars, which would mix with the rows of the table."""
    while True:
        with redirect_stdout(sys.stderr):
            trial = next(trials, None)
        if trial is None:
            return
        yield trial


def line(row: list[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(row)} |"
