"""`speechkit search-activations`: trains a recipe with many activations."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from speechkit.cli.options import Json
from speechkit.cli.output import show
from speechkit.cli.train import load_run


class Search(StrEnum):
    """How formulas are chosen."""

    exhaustive = "exhaustive"
    evolution = "evolution"


def search_activations(
    recipe: Annotated[str, typer.Argument(metavar="RUN.py[:function]", help="The run to train.")],
    out: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Output folder; an earlier search there is continued."),
    ],
    search: Annotated[
        Search,
        typer.Option(help="Formulas of the small space in order, or mutations of good ones."),
    ] = Search.exhaustive,
    budget: Annotated[int, typer.Option(min=1, help="How many formulas to train.")] = 60,
    seed: Annotated[int, typer.Option(help="Seed of the evolution.")] = 0,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Change a setting, such as steps=100."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a recipe with composed activations, and list them in DIR/leaderboard.json."""
    from speechkit.config import override
    from speechkit_activations.compose import small_space
    from speechkit_activations.search import Leaderboard, evolution, exhaustive, judge_by

    run = override(load_run(recipe)[1], assignments or [])
    out.mkdir(parents=True, exist_ok=True)
    board = Leaderboard(out / "leaderboard.json", judge_by(run, out))
    if search == Search.exhaustive:
        exhaustive(board, small_space(), budget)
    else:
        evolution(board, budget, seed)
    for row in board.rows():
        error = row["reason"] if row["error"] is None else f"{row['error']:.4f}"
        show(row, f"{error}  {row['formula']}", as_json)
