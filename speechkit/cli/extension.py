"""The commands, each imported when it is called; the option --plugin, and commands of plugins."""

from collections.abc import Collection, Iterator, Mapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from speechkit.cli.output import complain
from speechkit.cli.values import PlainCommand, take_plain_values
from speechkit.errors import PluginError

COMMANDS = {
    "train": "train:train",
    "ablate": "ablate:ablate",
    "manifest": "manifest:manifest",
    "shards": "shards:shards",
    "evaluate": "evaluate:evaluate",
    "calibrate": "evaluate:calibrate",
    "classify": "infer:classify",
    "transcribe": "infer:transcribe",
    "align": "align:align",
    "vad": "vad:vad",
    "listen": "listen:listen",
    "serve": "serve:serve",
    "info": "info:info",
    "models": "info:models",
    "transform": "transform:transform",
    "probe": "probe:probe",
    "export": "export:export",
    "import": "importer:import_model",
    "pull": "pull:pull",
    "lm": "lm:lm",
    "doctor": "doctor:doctor",
    "demo": "demo:demo",
    "plugins": "plugins:app",
}
"""The module of `speechkit.cli` with each command, and its function or its group of commands."""
SETTINGS = {"listen": {"allow_extra_args": True}}
PLUGIN = "--plugin"
# typer brings its own click or uses the installed one, depending on its version
UsageError: type[Any] = typer.BadParameter.__mro__[1]


class OwnCommands(Mapping[str, Any]):
    """The commands of `COMMANDS` by name; one is imported and made when it is asked for."""

    def __getitem__(self, name: str) -> Any:
        module, _, attribute = COMMANDS[name].partition(":")
        found = getattr(import_module(f"speechkit.cli.{module}"), attribute)
        cli = typer.Typer()
        if isinstance(found, typer.Typer):
            cli.add_typer(found, name=name)
        else:
            cli.command(name, cls=PlainCommand, context_settings=SETTINGS.get(name))(found)
        return typer.main.get_group(cli).commands[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


def plugin_commands(own: Collection[str] = ()) -> dict[str, Any]:
    """The commands of all loaded plugins by name: one for the verb of each task, and their own.

    A task whose verb is a command in `own` has none, and a warning says so.
    """
    from speechkit.cli.infer import predict_command
    from speechkit.plugins import registry

    cli = typer.Typer()
    for verb in _verbs(own):
        cli.command(verb)(predict_command(verb))
    registry().hook.speechkit_commands(cli=cli)
    return dict(typer.main.get_group(cli).commands)


def _verbs(own: Collection[str]) -> list[str]:
    """The verbs of the tasks of plugins."""
    from speechkit.plugins import CORE, registry

    verbs = []
    for entry in registry().components("task"):
        if entry.plugin != CORE:
            from speechkit.plans import about

            try:
                task: Any = entry.factory()
                # one derived from a task of the core keeps its verb, and needs no other command
                if task.verb in own and task.verb not in about.COMMANDS:
                    complain(
                        "warning",
                        f"task {entry.qualified_name}: {task.verb} is a command of speechkit; "
                        "give the task another verb",
                    )
                else:
                    verbs.append(task.verb)
            except PluginError as error:
                complain("warning", error)
    return verbs


class Commands(TyperGroup):
    """A group with its own commands, followed by those of plugins, which cannot replace them.

    `--plugin FILE.py` may come before or after a command.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.commands: Any = OwnCommands()

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        take_plain_values(self, ctx)
        # to the front, where it is read before the command, which may be the plugin's own, is found
        end = args.index("--") if "--" in args else len(args)
        plugins: list[str] = []
        others: list[str] = []
        words = iter(args[:end])
        for word in words:
            if word == PLUGIN:
                plugins.append(word)
                file = next(words, None)
                if file is None:
                    # which is refused; a command behind it would be taken for the file
                    return super().parse_args(ctx, plugins)
                plugins.append(file)
            elif word.startswith(f"{PLUGIN}="):
                plugins.append(word)
            else:
                others.append(word)
        return super().parse_args(ctx, [*plugins, *others, *args[end:]])

    def list_commands(self, ctx: Any) -> list[str]:
        return [*COMMANDS, *sorted(plugin_commands(COMMANDS).keys() - set(COMMANDS))]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except UsageError as error:
            if "Did you mean" not in error.message:
                error.message = (
                    f"{error.message.rstrip('.')}; a plugin's needs {PLUGIN} FILE.py or its package"
                )
            raise

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return super().get_command(ctx, cmd_name) or plugin_commands().get(cmd_name)
