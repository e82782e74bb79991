"""`speechkit plugins`: which components there are, and all about one of them."""

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from speechkit.cli.options import Json
from speechkit.cli.output import pairs, say, show
from speechkit.component import did_you_mean
from speechkit.errors import ComponentError

if TYPE_CHECKING:
    from speechkit.plugins import Entry

Kind = Annotated[
    str | None, typer.Option(metavar="KIND", help="Only this kind, such as activation.")
]

app = typer.Typer(help="List what plugins offer, or show one component.")


@app.command("list")
def list_components(kind: Kind = None, as_json: Json = False) -> None:
    """List the components of all plugins, and the plugins that did not load."""
    from speechkit.plugins import registry

    entries = registry().components(kind)
    if not as_json:
        say(_table(entries, registry().failures))
        return
    for entry in entries:
        show(_row(entry), "", as_json)


@app.command("show")
def show_component(
    name: Annotated[str, typer.Argument(metavar="NAME", help="name or plugin/name")],
    kind: Kind = None,
    as_json: Json = False,
) -> None:
    """Show everything a component says about itself, and the parameters it takes."""
    from speechkit.plugins import registry

    entries = registry().components(kind)
    named = [e for e in entries if name in (e.component.name, e.qualified_name)]
    if not named:
        known = {entry.component.name for entry in entries}
        raise ComponentError(f"no {kind or 'component'} {name!r}. {did_you_mean(name, known)}")
    for entry in named:
        details = _details(entry)
        words = {key: _words(value) for key, value in details.items() if value not in ("", [], {})}
        show(details, pairs(words), as_json)
        if entry is not named[-1] and not as_json:
            say("")


def _row(entry: "Entry") -> dict[str, str]:
    return {
        "name": entry.component.name,
        "kind": entry.kind,
        "plugin": entry.plugin,
        "version": entry.version,
        "time": entry.component.time,
        "summary": entry.component.summary,
    }


def _details(entry: "Entry") -> dict[str, Any]:
    factory = entry.factory()
    component = {
        **asdict(entry.component),
        # a factory such as functools.partial has no name of its own
        "factory": f"{factory.__module__}:{getattr(factory, '__qualname__', factory)}",
        "exports": sorted(entry.component.exports),
    }
    parameters = inspect.signature(factory).parameters.values()
    return {**_row(entry), **component, "parameters": [str(p) for p in parameters]}


def _table(entries: Iterable["Entry"], failures: Mapping[str, str]) -> Table:
    """Components grouped by kind, and below them the plugins that did not load."""
    table = Table("name", "plugin", "reads", "summary", box=None)
    for kind, group in groupby(entries, key=lambda entry: entry.kind):
        table.add_row(Text(kind, "bold"))
        for row in map(_row, group):
            table.add_row(
                *map(Text, (f"  {row['name']}", row["plugin"], row["time"], row["summary"]))
            )
    if failures:
        table.add_row(Text("did not load", "bold red"))
    for plugin, reason in failures.items():
        table.add_row("", Text(plugin), "", Text(reason))
    return table


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in value.items())
    return "; ".join(value) if isinstance(value, list) else str(value)
