"""`speechkit`: the commands, and their exit codes and error messages."""

import logging
import os
import re
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from speechkit.cli.extension import Commands, UsageError
from speechkit.cli.output import Complaints, complain, escape_what_cannot_be_encoded
from speechkit.errors import SpeechkitError, is_out_of_memory, missing_extra, one_line
from speechkit.limits import MAX_MESSAGE_CHARACTERS

NOT_PLAIN = re.compile(r"Value error, |, unable to parse string as an? \w+")
"""What typer's messages about options repeat of the library that checked them."""

INTERRUPTED = 128 + signal.SIGINT

app = typer.Typer(cls=Commands, pretty_exceptions_enable=False)


def _print_version(asked: bool) -> None:
    if asked:
        from speechkit.packages import core_version

        print(core_version())
        raise typer.Exit


def _load_plugins(paths: list[Path] | None) -> None:
    for path in paths or []:
        from speechkit.plugins import registry

        registry().load_file(path)


@app.callback()
def speechkit(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print version."),
    ] = False,
    plugin: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE.py",
            # here, for the command that comes next, or is listed by --help, may be the plugin's
            callback=_load_plugins,
            is_eager=True,
            help="Load a plugin; of any command, also behind its name.",
        ),
    ] = None,
) -> None:
    """Train, evaluate and stream speech networks with the same numbers."""


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits: 0, 1 after an error, 2 after a wrong command."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Runs one command and returns its exit code; an error is one line on stderr.

    With SPEECHKIT_TRACEBACK=1 a traceback comes before that line.
    """
    escape_what_cannot_be_encoded()
    logging.basicConfig(handlers=[Complaints()])
    with warnings.catch_warnings(), _terminated_as_by_ctrl_c() as ended_by:
        warnings.showwarning = lambda message, *_, **__: complain("warning", message)
        try:
            code = app(arguments or ["--help"], prog_name="speechkit", standalone_mode=False) or 0
            return 128 + ended_by[-1] if code == INTERRUPTED else code
        except typer.Abort:
            return INTERRUPTED
        except Exception as error:
            if os.environ.get("SPEECHKIT_TRACEBACK"):
                traceback.print_exc()
            complain("error", reason(error))
            return 2 if isinstance(error, UsageError) else 1


@contextmanager
def _terminated_as_by_ctrl_c() -> Iterator[list[int]]:
    """Turns SIGTERM into KeyboardInterrupt: temporary files are removed, last events printed.

    The list gets the number of the signal.
    """
    received, owner = [int(signal.SIGINT)], os.getpid()

    def interrupt(number: int, frame: object) -> None:
        # the second one ends it at once
        signal.signal(number, signal.SIG_DFL)
        if os.getpid() != owner:
            # a forked worker, which has nothing to put in order
            os.kill(os.getpid(), number)
        received.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)


def reason(error: Exception) -> str:
    """The message for an exception: how to fix it, or that it is a bug."""
    if isinstance(error, UsageError):
        command = error.ctx.command_path if error.ctx else "speechkit"
        message = NOT_PLAIN.sub("", error.format_message()).replace("Input should", "it should")
        return f"{message.rstrip('.?')}; type: {command} --help"
    error = missing_extra(error) or error
    if isinstance(error, SpeechkitError):
        return str(error)
    if isinstance(error, OSError):
        why = error.strerror or str(error)
        return f"{why}: {error.filename}" if error.filename else why
    if is_out_of_memory(error):
        return "there is not enough memory; give shorter recordings, fewer jobs or a smaller batch"
    kind = type(error).__name__
    text = one_line(f"{kind}: {error}" if str(error) else kind)
    # a long message is cut, so that the advice is complete
    return (
        f"{text[: MAX_MESSAGE_CHARACTERS // 2]}; this is a bug in speechkit or a plugin; run it "
        "again with the environment variable SPEECHKIT_TRACEBACK=1 and report what it prints"
    )
