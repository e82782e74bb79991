"""`speechkit pull`: gets a published model, after its licence is accepted."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from speechkit.cli.importer import show_model
from speechkit.cli.options import Json, complete_published
from speechkit.cli.output import complain
from speechkit.errors import ConfigError

if TYPE_CHECKING:
    from speechkit.io.download import Told
    from speechkit.published import Published

LICENCES = "licences.json"
"""The file in the cache with the licences that the user has accepted."""


def pull(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A name from the list of speechkit models.",
            autocompletion=complete_published,
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Accept the licence that is shown.")] = False,
    mirror: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="The address of a folder with the archives, instead of the publisher's.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Download a published model once; from then on commands accept its name.

    Example: speechkit pull stt_en_quartznet15x5
    """
    from speechkit.plans.source import with_torch

    pulling = with_torch("speechkit.pull", "speechkit pull")
    row = pulling.row_of(name)
    if not row.is_pulled:
        _agree(row, yes)
    with _bar(name) as told:
        folder = pulling.pull(name, told, mirror)
    show_model(with_torch("speechkit.checkpoint").load(folder), name, as_json)


def _agree(row: "Published", yes: bool) -> None:
    """Shows a licence once and remembers that it was accepted; raises ConfigError if it is not."""
    from speechkit.config import write_json
    from speechkit.io.cache import cache_folder
    from speechkit.io.files import atomic_file
    from speechkit.io.untrusted import UntrustedError, read_json

    file = cache_folder() / LICENCES
    try:
        accepted = [text for text in read_json(file) if isinstance(text, str)]
    except (OSError, UntrustedError, TypeError):
        accepted = []
    if row.licence in accepted:
        return
    complain("note", f"the licence of {row.name} is: {row.licence}; the model's page is {row.page}")
    if not yes:
        if not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
            raise ConfigError(
                f"nothing was downloaded; read the licence, and type: speechkit pull {row.name} "
                "--yes"
            )
        if not typer.confirm("Do you accept this licence?", err=True):
            raise ConfigError("nothing was downloaded, because the licence was not accepted")
    with atomic_file(file) as part:
        write_json(part, [*accepted, row.licence])


@contextmanager
def _bar(name: str) -> Iterator["Told"]:
    """A progress bar on a terminal, which appears with the first bytes."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    columns = "{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn()
    screen = Console(stderr=True)
    with Progress(*columns, console=screen, disable=not screen.is_terminal) as progress:
        task = progress.add_task(name, visible=False)

        def told(done_bytes: int, size_bytes: int) -> None:
            progress.update(task, completed=done_bytes, total=size_bytes, visible=True)

        yield told
