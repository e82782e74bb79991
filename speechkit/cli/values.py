"""Takes the values of arguments without typer's conversion where they need none.

typer converts each value, even a missing one, with pydantic, whose import takes longer than the
rest of a command.
"""

from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any, get_type_hints

import typer
from typer.core import TyperCommand


class PlainCommand(TyperCommand):
    """A command whose parameters are not converted by typer where they need no conversion."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        take_plain_values(self, ctx)
        return super().parse_args(ctx, args)


def take_plain_values(command: Any, ctx: Any) -> None:
    """Replaces typer's conversion in the parameters of a command or group, where none is needed."""
    types = get_type_hints(command.callback)
    for parameter in command.get_params(ctx):
        kind = types.get(parameter.name)
        parameter.process_value = _Plain(parameter, kind, parameter.process_value)


class _Plain:
    """A parameter's `process_value`, which calls typer's own for values that need conversion."""

    def __init__(self, parameter: Any, kind: Any, convert: Callable[[Any, Any], Any]) -> None:
        self.parameter, self.kind, self.convert = parameter, kind, convert

    def __call__(self, ctx: Any, value: Any) -> Any:
        parameter = self.parameter
        if value == "" or (isinstance(value, list | tuple) and "" in value):
            raise typer.BadParameter("it is empty; give a value, or leave it out", ctx, parameter)
        single = parameter.nargs == 1 and not parameter.multiple
        fits = type(value) is self.kind and isinstance(value, bool | str | Enum)
        if value is None and not parameter.required:
            value = None if single else ()
        elif value and self.kind == list[Path] and all(type(item) is str for item in value):
            value = [Path(item) for item in value]
        elif not fits:
            return self.convert(ctx, value)
        return parameter.callback(ctx, parameter, value) if parameter.callback else value
