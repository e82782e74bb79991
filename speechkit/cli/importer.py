"""`speechkit import`: makes a model folder from another toolkit's weights."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from speechkit.cli.options import Json
from speechkit.cli.output import show

if TYPE_CHECKING:
    from speechkit.models import Model


class Rule(StrEnum):
    """How the front end counts frames."""

    nemo1 = "nemo1"
    invariant = "invariant"


def import_model(
    source: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A .nemo archive, or a folded .safetensors file."),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The model folder to write.")],
    frames: Annotated[
        Rule | None,
        typer.Option(help="The frame rule, instead of the one of the file's own version."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a model folder from a NeMo archive or a folded QuartzNet."""
    from speechkit.checkpoint import save
    from speechkit.importers import read_model

    model = read_model(source, None if frames is None else frames.value)
    save(model, out)
    show_model(model, str(out), as_json)


def show_model(model: "Model", name: str, as_json: bool) -> None:
    """Prints what a model is, and how it can be streamed."""
    from speechkit.models.profile import profile
    from speechkit.streaming.nets import suggested_window_s
    from speechkit.tasks.plans import about_of

    figures = profile(model)
    row = {
        "model": name,
        "kind": model.config.kind,
        "task": model.config.task,
        "size": model.config.size,
        "parameters": figures.parameters,
        "labels": len(model.labels),
        "sample_rate": model.sample_rate,
        "frontend": str(model.config.frontend),
        "streamable": figures.streamable,
        "why_not_streamable": figures.why_not_streamable,
    }
    listens = (
        f"reads whole utterances; stream it with window_s={suggested_window_s(about_of(model)):g}"
        if figures.latency_s is None
        else f"streams with a delay of {figures.latency_s:.2f} s"
    )
    show(row, _in_words(row, listens), as_json)


def _in_words(row: dict[str, Any], listens: str) -> str:
    return (
        f"{row['model']}: {row['kind']} {row['size']}, {row['labels']} labels, "
        f"{row['sample_rate']:,} Hz, {row['parameters']:,} parameters; {listens}"
    )
