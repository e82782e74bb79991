"""Prints results on stdout, as JSON lines or text, and errors on stderr, one line each."""

import codecs
import io
import json
import logging
import re
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from speechkit.errors import one_line

# rich is imported only by commands that print a table
if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Characters that control a terminal or reverse the direction of text."""
ESCAPED = "speechkit.escaped"
"""The error handler that writes unsupported characters as JSON escapes, which keeps JSON valid."""


def _encode(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


codecs.register_error(ESCAPED, _encode)


def escape_what_cannot_be_encoded() -> None:
    """Makes output escape file names that the terminal's encoding does not support."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ESCAPED)


def inert(text: str) -> str:
    """Text with the control characters of terminals escaped."""
    return STEERING.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def console() -> "Console":
    """The console for text; square brackets and `:x:` in names are printed unchanged."""
    from rich.console import Console

    return Console(markup=False, emoji=False, highlight=False)


class Complaints(logging.Handler):
    """Log records as lines, each a warning unless its `kind` says otherwise."""

    def emit(self, record: logging.LogRecord) -> None:
        complain(getattr(record, "kind", "warning"), record.getMessage())


def show(row: Mapping[str, Any], human: "RenderableType", as_json: bool) -> None:
    """Prints one result: `row` as a JSON line, or `human` as text."""
    if as_json:
        print(json.dumps(row, ensure_ascii=False), flush=True)
    else:
        say(human)


def say(human: "RenderableType") -> None:
    """Prints text; lines are not wrapped, so that they can be searched."""
    if isinstance(human, str):
        print(inert(human), flush=True)
    else:
        console().print(human)


def in_words(metrics: Mapping[str, Any]) -> str:
    """The figures of an evaluation in one line."""
    figures = (
        f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}"
        for name, value in metrics.items()
        if name != "n"
    )
    return f"{', '.join(figures)} on {metrics['n']} utterances"


def complain(kind: str, reason: object) -> None:
    """Prints `kind: reason` (error, warning, note) on stderr, always in one line."""
    print(one_line(f"{kind}: {reason}"), file=sys.stderr)


def pairs(rows: Mapping[str, Any]) -> "Table":
    """A table of names and values, one pair per line."""
    from rich.table import Table

    table = Table(show_header=False, box=None)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(inert(name), inert(str(value)))
    return table
