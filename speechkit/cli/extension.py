"""Commands that plugins add to the command line."""

from typing import Any

import typer
from typer.core import TyperGroup


def plugin_commands() -> dict[str, Any]:
    """The commands of all loaded plugins by name."""
    from speechkit.plugins import registry

    cli = typer.Typer()
    registry().hook.speechkit_commands(cli=cli)
    return dict(typer.main.get_group(cli).commands)


class Commands(TyperGroup):
    """A group with its own commands first, then those of plugins, which never replace its own."""

    def list_commands(self, ctx: Any) -> list[str]:
        own = super().list_commands(ctx)
        return [*own, *sorted(plugin_commands().keys() - set(own))]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return super().get_command(ctx, cmd_name) or plugin_commands().get(cmd_name)
