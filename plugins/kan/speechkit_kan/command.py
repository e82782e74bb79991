"""`speechkit kan-plot`: plots the learned edges of a model."""

from pathlib import Path
from typing import Annotated

import typer

from speechkit.cli.options import Json, ModelName
from speechkit.cli.output import show
from speechkit.io.files import atomic_file


def kan_plot(
    model: ModelName,
    out: Annotated[Path, typer.Argument(metavar="OUT.svg", help="The picture to write.")],
    count: Annotated[
        int,
        typer.Option("--edges", min=1, help="The number of edges to draw of each layer."),
    ] = 10,
    as_json: Json = False,
) -> None:
    """Draw the strongest edges of KAN layers, and print the formula nearest to each."""
    from speechkit.checkpoint import load
    from speechkit_kan.calibration import edge_layers
    from speechkit_kan.plot import strongest, svg

    layers = edge_layers(load(model))
    edges = [edge for name, layer in layers.items() for edge in strongest(name, layer, count)]
    with atomic_file(out) as part:
        part.write_text(svg(edges), encoding="utf-8")
    for edge in edges:
        row = {
            "layer": edge.layer,
            "input": edge.c_in,
            "output": edge.c_out,
            "spread": edge.spread,
            "formula": edge.fit.formula,
            "r2": edge.fit.r2,
        }
        words = f"{edge.layer}  {edge.c_in} → {edge.c_out}  {edge.fit.formula}"
        show(row, f"{words}  (R² {edge.fit.r2:.3f})", as_json)
