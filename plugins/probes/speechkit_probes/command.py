"""`speechkit explain`: shows on one recording what decided."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from speechkit.cli.options import Json, ModelName
from speechkit.cli.output import show
from speechkit.cli.transcript_files import refuse_input
from speechkit.io.files import atomic_file


def explain(
    model: ModelName,
    audio: Annotated[Path, typer.Argument(metavar="AUDIO", help="A recording of up to 60 s.")],
    out: Annotated[Path, typer.Option(metavar="PAGE.html", help="The page to write.")] = Path(
        "explanation.html"
    ),
    share: Annotated[
        float,
        typer.Option(min=0.01, max=1, help="The parts hold this share of what spoke for it."),
    ] = 0.5,
    as_json: Json = False,
) -> None:
    """Show which sounds of a recording decided, on a page with pictures and sound."""
    from speechkit.checkpoint import load
    from speechkit.data import read_samples
    from speechkit_probes.explanation import explain as explanation_of
    from speechkit_probes.explanation_page import explanation_page

    refuse_input(out, audio)
    net = load(model)
    samples = read_samples(audio, target_rate=net.sample_rate)
    found = explanation_of(net, samples, share)
    page = explanation_page(f"{model} on {audio.name}", found, samples, net.sample_rate)
    with atomic_file(out) as part:
        part.write_text(page, encoding="utf-8", newline="\n")
    row = {
        "audio": str(audio),
        "labels": list(found.labels),
        "text": found.text,
        "parts": [asdict(one) for one in found.parts],
        "page": str(out),
    }
    words = ", ".join(f"{one.start_s:.2f} to {one.end_s:.2f} s" for one in found.parts)
    show(row, f"{found.text or 'nothing'}: {words or 'no part'}; see {out}", as_json)
