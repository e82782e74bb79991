"""Where answers and complaints go: stdout as JSON lines or for people, stderr in single lines."""

import codecs
import io
import json
import logging
import re
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table

from speechkit.errors import one_line

STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Characters that speak to a terminal, or turn the order of its text round."""
ESCAPED = "speechkit.escaped"
"""The error handler that writes what an encoding lacks as JSON does, and so keeps JSON valid."""


def _encode(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


codecs.register_error(ESCAPED, _encode)


def escape_what_cannot_be_encoded() -> None:
    """Lets file names that are no text, or not in the terminal's encoding, be printed escaped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ESCAPED)


def inert(text: str) -> str:
    """Text whose characters that would steer a terminal are escaped."""
    return STEERING.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def console() -> Console:
    """Where people read; square brackets and `:x:` in names are what they are."""
    return Console(markup=False, emoji=False, highlight=False)


class Complaints(logging.Handler):
    """Log records as lines, each a warning unless its `kind` says otherwise."""

    def emit(self, record: logging.LogRecord) -> None:
        complain(getattr(record, "kind", "warning"), record.getMessage())


def show(row: Mapping[str, Any], human: RenderableType, as_json: bool) -> None:
    """Prints one answer: `row` as a JSON line, or `human` for a person."""
    if as_json:
        print(json.dumps(row, ensure_ascii=False), flush=True)
    else:
        say(human)


def say(human: RenderableType) -> None:
    """Prints for a person; lines of text are not wrapped, so that they can be searched."""
    if isinstance(human, str):
        console().print(inert(human), soft_wrap=True)
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
    """Prints `kind: reason` (error, warning, note) on stderr, in one line whatever it holds."""
    print(one_line(f"{kind}: {reason}"), file=sys.stderr)


def pairs(rows: Mapping[str, Any]) -> Table:
    """A table of names and values, one pair per line."""
    table = Table(show_header=False, box=None)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(inert(name), inert(str(value)))
    return table
