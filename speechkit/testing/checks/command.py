"""What a plugin adds to the command line."""

from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

from speechkit.component import Component
from speechkit.plugins import Entry, Registry

KIND = "command"


def commands_of(registry: Registry, plugin: str) -> list[Entry]:
    """Each command that the plugin adds to an empty command line, as a component."""
    import typer
    from typer.main import get_group

    found = []
    for hook in registry.hook.speechkit_commands.get_hookimpls():
        if hook.plugin_name.partition(":")[0] != plugin:
            continue
        cli = typer.Typer()
        hook.function(**dict.fromkeys(hook.argnames, cli))
        for name, command in get_group(cli).commands.items():
            component = Component(
                name=name, factory=lambda command=command: command, summary=command.help or ""
            )
            found.append(Entry(KIND, component, plugin, registry.plugins()[plugin]))
    return found


def check_command_explains_itself(entry: Entry) -> None:
    """`--help` works for it and all its commands, and each has a summary."""
    for name, command in _all(entry.component.name, entry.factory()()):
        assert command.help, f"{name} has no docstring to say what it does"
        with redirect_stdout(StringIO()) as printed:
            command.main(["--help"], prog_name=name, standalone_mode=False)
        assert printed.getvalue().strip(), f"{name} --help prints nothing"


def _all(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    yield name, command
    for below, part in getattr(command, "commands", {}).items():
        yield from _all(f"{name} {below}", part)
