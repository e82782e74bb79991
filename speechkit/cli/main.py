"""`speechkit`: the commands, and how each of them ends."""

import importlib.metadata
import logging
import sys
import warnings
from typing import Annotated, Any

import typer

from speechkit.cli import (
    ablate,
    align,
    demo,
    doctor,
    evaluate,
    export,
    importer,
    infer,
    info,
    listen,
    lm,
    manifest,
    plugins,
    shards,
    train,
    vad,
)
from speechkit.cli.extension import Commands
from speechkit.cli.output import complain
from speechkit.errors import SpeechkitError
from speechkit.plugins import DISTRIBUTION

# typer brings its own click or uses the installed one, depending on its version
UsageError: type[Any] = typer.BadParameter.__mro__[1]

app = typer.Typer(cls=Commands, pretty_exceptions_enable=False)
app.command()(train.train)
app.command()(ablate.ablate)
app.command()(manifest.manifest)
app.command()(shards.shards)
app.command()(evaluate.evaluate)
app.command()(evaluate.calibrate)
app.command()(infer.classify)
app.command()(infer.transcribe)
app.command()(align.align)
app.command()(vad.vad)
app.command()(listen.listen)
app.command()(info.info)
app.command()(info.models)
app.command()(export.export)
app.command("import")(importer.import_model)
app.command()(lm.lm)
app.command()(doctor.doctor)
app.command()(demo.demo)
app.add_typer(plugins.app, name="plugins")


def _print_version(asked: bool) -> None:
    if asked:
        print(importlib.metadata.version(DISTRIBUTION))
        raise typer.Exit


@app.callback()
def speechkit(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print version."),
    ] = False,
) -> None:
    """Train, evaluate and stream speech networks with the same numbers."""


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits: 0, 1 after an error, 2 after a wrong command."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """The exit code of one command; what the user can fix is said in one line on stderr."""
    logging.basicConfig(format="warning: %(message)s")
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: complain("warning", message)
        try:
            return app(arguments or ["--help"], prog_name="speechkit", standalone_mode=False) or 0
        except UsageError as error:
            command = error.ctx.command_path if error.ctx else "speechkit"
            complain("error", f"{error.format_message().rstrip('.?')}; type: {command} --help")
            return 2
        except SpeechkitError as error:
            complain("error", error)
            return 1
        except OSError as error:
            complain("error", f"{error.strerror}: {error.filename}" if error.filename else error)
            return 1
        except typer.Abort:
            return 130
