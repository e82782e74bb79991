"""`speechkit compress`: makes a model faster or smaller by a search over transforms."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from speechkit.cli.options import Json, ModelName, Seed, complete_component
from speechkit.cli.output import say, show
from speechkit.errors import ConfigError
from speechkit.io.files import atomic_file

PAGE = "compress.html"
MOVES = (
    "depth_prune:n=1",
    "layer_drop:n=1",
    "magnitude:share=0.6,block=16",
    "magnitude:share=0.8,block=16",
)


def compress(
    model: ModelName,
    manifest: Annotated[
        Path,
        typer.Option("--manifest", "--data", metavar="M", help="JSON lines with targets."),
    ],
    budget: Annotated[
        str,
        typer.Option(metavar="COST=SHARE", help="latency=0.5, or size=0.5 for the parameters."),
    ] = "latency=0.5",
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="SPEC",
            help=f"A transform to try; several may be given. Default: {', '.join(MOVES)}",
            autocompletion=complete_component("transform"),
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            show_default="runs/MODEL_compressed",
            help="Output folder; an earlier search there is continued.",
        ),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Batches of healing after each one.")] = 100,
    width: Annotated[int, typer.Option(min=1, help="How many models to transform further.")] = 1,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Search for transforms that halve a model's time, with training in between, and plot all."""
    from speechkit.cli.ablate import line
    from speechkit.data import read_manifest
    from speechkit_compression.report import HEAD, cells, compression_page
    from speechkit_compression.search import Budget, Search, Settings

    search = Search(
        Settings(model, str(manifest), steps, seed),
        read_manifest(manifest),
        names or MOVES,
        Budget.parse(budget),
        out or Path("runs") / f"{Path(model).name}_compressed",
        width,
    )
    for number, one in enumerate(search.run()):
        if not number and not as_json:
            say(line(HEAD))
        show(asdict(one), line(cells(one)), as_json)
        with atomic_file(search.out / PAGE) as part:
            part.write_text(compression_page(model, search), encoding="utf-8")
    chosen = search.chosen()
    if chosen is None:
        cheapest = search.front()[0]
        where = search.out / cheapest.folder if cheapest.folder else "the original"
        raise ConfigError(
            f"no model meets {budget}: the cheapest is {where} with {search.cost(cheapest):.3f}; "
            "give other transforms by --with, or a larger budget"
        )
    if not as_json:
        say(f"{search.out / chosen.folder}: error {chosen.error:.4f} at {budget}")
