"""`speechkit export`: writes a model as a file that runs without speechkit."""

import inspect
from pathlib import Path
from typing import Annotated

import typer

from speechkit.cli.options import Json, ModelName
from speechkit.cli.output import show
from speechkit.cli.transcript_files import refuse_input, refuse_other_kind
from speechkit.errors import ConfigError

SOUNDS = 16
"""The number of recordings of a manifest on which an exported file is tested."""


def export(
    model: ModelName,
    form: Annotated[
        str,
        typer.Option("--format", metavar="NAME", help="onnx, native, torch.export, or a plugin's."),
    ] = "onnx",
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The file to write; by default named after the model."),
    ] = None,
    streaming: Annotated[
        bool, typer.Option("--streaming", help="One block of a stream, states in and out.")
    ] = False,
    features: Annotated[
        bool,
        typer.Option(help="The file takes audio and holds the front end; or it takes features."),
    ] = True,
    int8: Annotated[
        bool, typer.Option("--int8", help="Weights and activations in int8; needs --audio.")
    ] = False,
    audio: Annotated[
        Path | None,
        typer.Option(metavar="M", help="JSON lines: sounds to try and calibrate it on."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a model as a file for other runtimes, and check that its scores match."""
    from speechkit.component import Spec
    from speechkit.data import read_manifest
    from speechkit.export import export as write
    from speechkit.io.folders import PLAN, find
    from speechkit.plugins import registry

    name, *given = form.split(":", 1)
    spec = Spec.parse(":".join([name.replace(".", "_"), *given]))
    spec.params.update(streaming=streaming, features=features)
    if int8:
        spec.params["int8"] = True
    factory = registry().find("exporter", spec.name).factory()
    if int8 and "int8" not in inspect.signature(factory).parameters:
        raise ConfigError(f"--int8: {form} has no such form; give --format onnx or native")
    suffix = getattr(factory, "suffix", "")
    if out is None:
        marks = ("-stream" if streaming else "") + ("-int8" if int8 else "")
        out = Path(find(model).name + marks + suffix)
    refuse_input(out, audio, *(file for file in find(model).iterdir() if file.name != PLAN))
    sounds = read_manifest(audio)[:SOUNDS] if audio else []
    refuse_input(out, *(utterance.audio for utterance in sounds))
    refuse_other_kind(out, suffix)
    done = write(find(model), out, spec, sounds)
    row = {
        "file": str(done.path),
        "format": form,
        "streaming": streaming,
        "int8": int8,
        "input": "audio" if features else "features",
        "bytes": done.bytes,
        "difference": done.difference,
    }
    close = (
        "" if done.difference is None else f", scores within {done.difference:.0e} of the model's"
    )
    show(row, f"{done.path}: {done.bytes / 1000:,.0f} kB{close}", as_json)
