"""`speechkit transform`: makes a new model from a trained one."""

import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from speechkit.cli.info import transforms_in_words
from speechkit.cli.models import load_on
from speechkit.cli.options import Device, Json, ModelName, Seed, complete_component
from speechkit.cli.output import pairs, show
from speechkit.cli.transcript_files import refuse_input


def transform(
    model: ModelName,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder of the new model.")],
    names: Annotated[
        list[str],
        typer.Option(
            "--with",
            metavar="SPEC",
            help="A transform, NAME:p=v,...; several are applied in order.",
            autocompletion=complete_component("transform"),
        ),
    ],
    manifest: Annotated[
        Path | None,
        typer.Option(
            "--manifest", "--data", metavar="M", help="JSON lines: recordings for those that need."
        ),
    ] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Make a new model of a trained one: other activations, fewer weights, ..."""
    from speechkit.card import read_card, read_transforms
    from speechkit.checkpoint import check_place, save
    from speechkit.errors import ConfigError
    from speechkit.io.folders import find
    from speechkit.probes import Examples
    from speechkit.transforms import transform as apply

    folder = find(model)
    refuse_input(out, folder)
    check_place(out)
    if out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"{out} holds a model already; choose another folder")
    card, before, net = read_card(folder), read_transforms(folder), load_on(model, device)
    examples = Examples(net, manifest, seed=seed) if manifest is not None else None
    made, applied = apply(net, names, examples)
    if card is not None:
        # the card's scores belong to the original model
        line = ["speechkit", "transform", model, str(out)]
        line += [word for name in names for word in ("--with", name)]
        line += ["--manifest", str(manifest), "--seed", str(seed)] if manifest is not None else []
        commands = (*card.commands, shlex.join(line))
        card = replace(card, commands=commands, scores=(), measured="")
        if made.labels != net.labels:
            purpose = f"has other labels than the model that it was made from, which {card.purpose}"
            card = replace(card, purpose=purpose)
    save(made, out, card, [*before, *applied])
    row = {"model": str(out), "transforms": [asdict(one) for one in applied]}
    show(row, pairs({"model": out, "transforms": transforms_in_words(applied)}), as_json)
