"""Where answers and complaints go: stdout as JSON lines or for people, stderr in single lines."""

import json
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table

from speechkit.errors import one_line


def show(row: Mapping[str, Any], human: RenderableType, as_json: bool) -> None:
    """Prints one answer: `row` as a JSON line, or `human` for a person."""
    if as_json:
        print(json.dumps(row, ensure_ascii=False), flush=True)
    else:
        say(human)


def say(human: RenderableType) -> None:
    """Prints for a person; lines of text are not wrapped, so that they can be searched."""
    text = isinstance(human, str)
    Console().print(human, markup=False, highlight=False, soft_wrap=text)


def marks_in_words(marks: Mapping[str, Any]) -> str:
    """The figures of an evaluation in one line."""
    said = (
        f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}"
        for name, value in marks.items()
        if name != "n"
    )
    return f"{', '.join(said)} on {marks['n']} utterances"


def complain(kind: str, reason: object) -> None:
    """Prints `kind: reason` (error, warning, note) on stderr, in one line whatever it holds."""
    print(one_line(f"{kind}: {reason}"), file=sys.stderr)


def pairs(rows: Mapping[str, Any]) -> Table:
    """A table of names and values, one pair per line."""
    table = Table(show_header=False, box=None)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, str(value))
    return table
