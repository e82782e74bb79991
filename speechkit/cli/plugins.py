"""`speechkit plugins`: lists, shows and checks components, and makes a new plugin."""

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from speechkit.cli.options import Json, complete_component, complete_kind
from speechkit.cli.output import pairs, say, show
from speechkit.component import did_you_mean
from speechkit.errors import ComponentError, PluginError
from speechkit.io.files import atomic_folder
from speechkit.limits import MAX_PROCESSES
from speechkit.plugins import CORE

if TYPE_CHECKING:
    from speechkit.plugins import Entry

Kind = Annotated[
    str | None,
    typer.Option(
        metavar="KIND",
        help="Only this kind, such as activation.",
        autocompletion=complete_kind,
    ),
]

TEMPLATE = Path(__file__).with_name("template")
"""The distribution of the plugin ACME, which `new` copies under another name."""
ACME = "acme"

app = typer.Typer(help="List, show and check what plugins offer, or begin a plugin.")


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
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="name or plugin/name", autocompletion=complete_component()
        ),
    ],
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


@app.command("check")
def check_components(
    plugin: Annotated[
        str, typer.Argument(metavar="PLUGIN", help="An installed plugin, a Python file, or core.")
    ],
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this component or check; may be given again."),
    ] = None,
    jobs: Annotated[
        int, typer.Option(metavar="N", min=1, max=MAX_PROCESSES, help="Processes that share them.")
    ] = 1,
    as_json: Json = False,
) -> None:
    """Check every component of a plugin; a line for each failure, and then exit code 1.

    The exit code is 1 as well where there was nothing to check.
    """
    from speechkit.testing import run_checks

    checks = failed = skipped = expected = 0
    for outcome in run_checks(plugin, only or (), jobs):
        for what, reason in (("error", outcome.error), ("skipped", outcome.skipped)):
            if reason:
                words = f"{what}: {reason}" if what == "skipped" else reason
                show({"check": outcome.id, what: reason}, f"{outcome.id}: {words}", as_json)
        checks += 1
        failed += bool(outcome.error)
        skipped += bool(outcome.skipped)
        expected += bool(outcome.expected)
    if not as_json:
        say(
            f"{plugin}: {checks} checks, {failed} failed, {skipped} skipped, "
            f"{expected} expected to fail"
        )
    if checks == skipped:
        why = "install what the skipped checks need" if checks else "it offers no component"
        raise PluginError(f"nothing of {plugin!r} was checked: {why}")
    if failed:
        raise typer.Exit(1)


@app.command("new")
def new_plugin(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder to make.")],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="The plugin's name, if not the folder's.")
    ] = None,
) -> None:
    """Begin a plugin: a distribution with an activation, a norm and their conformance test."""
    name = name or folder.absolute().name.removeprefix("speechkit-").replace("-", "_")
    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise PluginError(f"{name!r} is no plugin name; add --name with a name such as my_layers")
    if name == CORE:
        raise PluginError(f"{CORE!r} is the built-in plugin; add --name with another name")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PluginError(f"{folder} is there already; give the name of a new folder")
    with atomic_folder(folder) as part:
        for source in sorted(TEMPLATE.rglob("*")):
            if source.is_file() and source.suffix != ".pyc":
                target = part / str(source.relative_to(TEMPLATE)).replace(ACME, name)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(source.read_text(encoding="utf-8").replace(ACME, name), "utf-8")
    say(f"plugin {name} in {folder}; next: pip install -e {folder}; speechkit plugins check {name}")


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
    from speechkit.ops.activation import formula_of

    factory = entry.factory()
    component = {
        **asdict(entry.component),
        "formula": formula_of(entry),
        # a factory such as functools.partial has no name
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
