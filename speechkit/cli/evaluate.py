"""`speechkit evaluate`: how well a model does on a manifest."""

from pathlib import Path
from typing import Annotated

import typer

from speechkit.cli.options import Json, ModelName
from speechkit.cli.output import marks_in_words, show


def evaluate(
    model: ModelName,
    manifest: Annotated[Path, typer.Option(metavar="M", help="JSON lines: what to judge it on.")],
    as_json: Json = False,
) -> None:
    """Judge a model on a manifest: WER and CER, accuracy or AUC, as fractions."""
    from speechkit.checkpoint import load
    from speechkit.evaluation import evaluate as judge

    figures = judge(load(model), manifest)
    show(figures, marks_in_words(figures), as_json)
