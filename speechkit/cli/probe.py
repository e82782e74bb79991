"""`speechkit probe`: measures a model on recordings, as numbers and on a page."""

from pathlib import Path
from typing import Annotated

import typer

from speechkit.cli.models import load_on
from speechkit.cli.options import Device, Json, ModelName, Seed, complete_component
from speechkit.cli.output import pairs, show
from speechkit.cli.transcript_files import refuse_input

NUMBERS, TENSORS, PAGE = "probe.json", "probe.safetensors", "probe.html"


def probe(
    model: ModelName,
    manifest: Annotated[Path, typer.Option(metavar="M", help="JSON lines: what to look at.")],
    names: Annotated[
        list[str],
        typer.Option(
            "--with",
            metavar="SPEC",
            help="A probe, NAME:p=v,...; there may be several.",
            autocompletion=complete_component("probe"),
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help=f"Gets {NUMBERS}, {TENSORS} and {PAGE}.")
    ],
    other: Annotated[
        str | None,
        typer.Option(
            "--compare", metavar="MODEL2", help="Measure this model too, and the differences."
        ),
    ] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Look into a model: print the numbers that probes find, and draw the rest on a page."""
    from speechkit.checkpoint import write_tensors
    from speechkit.config import to_dict, write_json
    from speechkit.io.files import atomic_folder
    from speechkit.probes import Examples
    from speechkit.probes import probe as look
    from speechkit.probes.comparison import compare
    from speechkit.report.page import number
    from speechkit.report.probes import Other, by_name, in_words, numbers_of, probe_page

    files = (NUMBERS, TENSORS, PAGE)
    for name in files:
        refuse_input(out / name, manifest)
    net = load_on(model, device)
    examples = Examples(net, manifest, seed=seed)
    found = look(net, names, examples)
    numbers = {name: numbers_of(tensors) for name, tensors in found.items()}
    row = {
        "model": model,
        "manifest": str(manifest),
        "utterances": len(examples.utterances),
        "seed": seed,
        "probes": numbers,
    }
    tensors, beside = by_name(found), None
    if other is not None:
        second = load_on(other, device)
        beside = Other(look(second, names, examples), compare(net, second, names, examples))
        row["compare"] = {
            "model": other,
            "probes": {name: numbers_of(tensors) for name, tensors in beside.found.items()},
            "differences": to_dict(beside.differences),
        }
        tensors |= {f"compare/{name}": x for name, x in by_name(beside.found).items()}
    with atomic_folder(out, own=files) as folder:
        write_json(folder / NUMBERS, row)
        write_tensors(folder / TENSORS, tensors)
        title = f"{model} on {manifest}" if other is None else f"{model} and {other} on {manifest}"
        page = probe_page(title, len(examples.utterances), found, beside)
        (folder / PAGE).write_text(page, encoding="utf-8", newline="\n")
    words = {
        f"{name}/{key}": "NaN or infinity" if value is None else number(value)
        for name, of_probe in numbers.items()
        for key, value in of_probe.items()
    }
    if beside is not None:
        words |= {
            f"{name}/{key}, difference": in_words(difference)
            for name, of_probe in beside.differences.items()
            for key, difference in of_probe.items()
        }
    show(row, pairs(words), as_json)
