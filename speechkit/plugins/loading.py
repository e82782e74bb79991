"""Where plugins come from: entry points and Python files, and what is asked of them."""

import difflib
import importlib.util
import inspect
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from speechkit import hookspecs
from speechkit.errors import PluginError
from speechkit.packages import DISTRIBUTION, NAME, core_version

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

PREFIX = "speechkit_"
"""The prefix of all hook names."""
FAILURES = (Exception, SystemExit)
"""What a plugin's own code may raise without ending the program."""


def named_plugins(value: str | None) -> tuple[set[str] | None, list[str]]:
    """The only entry points to load, None for all, and the Python files to load beside them."""
    parts = [] if value is None else [part.strip() for part in value.split(",")]
    files = [part for part in parts if part.endswith(".py")]
    return (None if len(files) == len(parts) else split(value or "") - set(files)), files


def split(text: str) -> set[str]:
    return {name.strip() for name in text.split(",") if name.strip()}


def imported(path: Path) -> ModuleType:
    """The module of a plugin file, imported now if it is not there."""
    name = path.stem
    module = sys.modules.get(name)
    if module is not None:
        if getattr(module, "__file__", None) == str(path):
            return module
        raise PluginError(f"plugin {path}: a module {name!r} is loaded already; rename it")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"{path} is not a Python file; give a path ending in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except FAILURES as error:
        del sys.modules[name]
        raise PluginError(f"plugin {path} does not import: {reason(error)}") from error
    return module


def offered_by(claims: "Iterable[EntryPoint]") -> Iterator[tuple[str, str]]:
    """The kind and name of each component that these plugins would offer."""
    for point in claims:
        # a plugin that fails here offers nothing
        with suppress(*FAILURES):
            plugin = point.load()
            for kind, hook in hookspecs.KINDS.items():
                for component in getattr(plugin, hook, list)():
                    yield kind, component.name


def reason(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"it calls sys.exit({error.code!r})"
    return str(error) or repr(error)


def check_name(plugin: str) -> None:
    if not NAME.fullmatch(plugin):
        raise PluginError(
            f"{plugin!r} is no plugin name; rename it to lower-case letters, digits and _"
        )


def check_hooks(plugin: object, name: str) -> None:
    """Names the first function that is called like a hook and is none, and why it is none."""
    known = {hook for hook in vars(hookspecs) if hook.startswith(PREFIX)}
    for hook in dir(plugin):
        function = getattr(plugin, hook)
        if not inspect.isroutine(function):
            continue
        marks = getattr(function, f"{hookspecs.PROJECT}_impl", None)
        if not hook.startswith(PREFIX):
            near = difflib.get_close_matches(hook, known, n=1, cutoff=0.6 if marks else 0.9)
            if marks or near:
                hint = f"; did you mean {near[0]}?" if near else f"; its name must begin {PREFIX}"
                raise PluginError(f"plugin {name!r}: {hook} is no hook{hint}")
            continue
        if marks is None:
            raise PluginError(
                f"plugin {name!r}: {hook} is not marked as a hook; write @sk.hookimpl above it"
            )
        if hook not in known and not marks["optionalhook"]:
            near = difflib.get_close_matches(hook, known, n=1)
            hint = f"Did you mean {near[0]!r}? If not, the" if near else "The"
            raise PluginError(
                f"plugin {name!r}: speechkit {core_version()} has no hook {hook!r}. {hint} plugin "
                f"wants a newer speechkit; try: pip install -U {DISTRIBUTION}"
            )
