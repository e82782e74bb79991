"""Loads plugins and finds their components."""

import difflib
import importlib
import importlib.metadata
import importlib.util
import inspect
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from textwrap import shorten
from types import ModuleType
from typing import Any, TypeVar

import pluggy

from speechkit import hookspecs
from speechkit.component import Component, Spec, did_you_mean
from speechkit.errors import ComponentError, PluginError, SpeechkitError, is_out_of_memory

log = logging.getLogger(__name__)
T = TypeVar("T")

CORE = "core"
ENTRY_POINT_GROUP = "speechkit"
DISTRIBUTION = "speechkit-core"
PREFIX = "speechkit_"
"""The prefix of all hook names."""
BUILTIN_MODULES = (
    "speechkit.builtin.layers",
    "speechkit.builtin.frontends",
    "speechkit.builtin.augmentations",
    "speechkit.builtin.training",
    "speechkit.builtin.exporters",
    "speechkit.builtin.transforms",
)


NAME = re.compile("[a-z0-9_]+")
"""Valid names of plugins."""
OF_COMMANDS = frozenset({"exporter", "probe", "task", "transform"})
"""Kinds without a setting of the same name."""
CLOSE = 0.83
"""How alike, from 0 to 1, the names of two members of a class are where one is a misspelt other."""
STREAM_LAYER = "speechkit.nn.StreamLayer"
MODULE = "torch.nn.Module"
MAKES = {
    **dict.fromkeys(("activation", "channel", "norm", "residual"), MODULE),
    **dict.fromkeys(
        ("block", "frontend", "head", "mixer", "normalizer", "pool", "stack", "stem"), STREAM_LAYER
    ),
}
"""The base class of what a factory of each kind of layer returns."""
LONGEST_REASON = 200
"""The most characters of another's error in a message."""
OURS = ("activations", "kan", "methods", "norms", "residuals")
"""The plugins of this repository, each in the distribution `speechkit-NAME`."""


@dataclass(frozen=True)
class Origin:
    """The origin of a plugin: a version of a distribution, or a Python file."""

    version: str = ""
    distribution: str = ""
    file: str = ""


@dataclass(frozen=True)
class Entry:
    """A component together with its kind and the plugin and version it comes from."""

    kind: str
    component: Component
    plugin: str
    version: str

    @property
    def qualified_name(self) -> str:
        return f"{self.plugin}/{self.component.name}"

    def factory(self) -> Callable[..., Any]:
        """The component's factory, imported now if it was given as `"module:attribute"`."""
        factory = self.component.factory
        if not isinstance(factory, str):
            return factory
        module, _, attribute = factory.partition(":")
        try:
            loaded: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, SystemExit) as error:
            raise PluginError(
                f"{self.kind} {self.qualified_name} cannot be loaded from {factory!r}: "
                f"{_reason(error)}"
            ) from error
        return loaded

    def make(self, *args: Any, **kw: Any) -> Any:
        """Calls the factory; raises ComponentError where it returns no layer of its kind."""
        made = self.factory()(*args, **kw)
        base = MAKES.get(self.kind)
        # by name, since those classes are in layers above this one
        names = {c.__name__ for c in type(made).__mro__}
        if base is None or base.rpartition(".")[2] in names:
            return made
        hint = (
            "derive it from speechkit.nn.Windowed or Recurrent, or return "
            "speechkit.nn.FrameWise(module) if it processes each frame separately"
            if base == STREAM_LAYER
            else "return an instance of such a class"
        )
        raise ComponentError(
            f"{self.kind} {self.qualified_name}: its factory returned an object of type "
            f"{type(made).__name__}, expected a {base}; {hint}"
        )


class Registry:
    """The components of all loaded plugins, by kind and name.

    Built-ins come first, then entry points of the group `speechkit`, then files given by path.
    `SPEECHKIT_PLUGINS` names Python files to load, which end in .py, and the only entry points to
    load ("" for none); `SPEECHKIT_DISABLE_PLUGINS` names those to leave out.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self.manager = pluggy.PluginManager(hookspecs.PROJECT)
        self.manager.add_hookspecs(hookspecs)
        self.failures: dict[str, str] = {}
        self.files: list[Path] = []
        self._origins = {CORE: Origin(core_version(), DISTRIBUTION)}
        self._entries: dict[str, list[Entry]] | None = None
        self._contested: dict[tuple[str, str], str] = {}
        for name in BUILTIN_MODULES:
            self._register(importlib.import_module(name), CORE)
        names, files = _named_plugins(environment.get("SPEECHKIT_PLUGINS"))
        self._load_entry_points(names, _split(environment.get("SPEECHKIT_DISABLE_PLUGINS", "")))
        for file in files:
            try:
                self.load_file(file)
            except PluginError as error:
                self._note_failure(Path(file).stem, str(error))

    @property
    def hook(self) -> Any:
        """The hooks, to call those of runs and commands."""
        return self.manager.hook

    def load_file(self, path: Path | str) -> None:
        """Loads a plugin in one Python file under the file's name, unless it is loaded."""
        if not Path(path).is_file():
            raise PluginError(f"no plugin file {path}; give the path of a Python file")
        path = Path(path).absolute()
        if path in self.files:
            return
        _check_name(path.stem)
        self.add(_imported(path), path.stem, file=path.name)
        self.files.append(path)

    def add(
        self,
        plugin: object,
        name: str,
        version: str = "",
        *,
        distribution: str = "",
        file: str = "",
    ) -> None:
        """Registers an imported plugin; raises PluginError on a clash or a misspelt hook."""
        _check_name(name)
        if name in self._origins:
            raise PluginError(f"a plugin named {name!r} is loaded already; rename one of the two")
        self._origins[name] = Origin(version, distribution, file)
        try:
            self._register(plugin, name)
            self._entries = self._collect()
        except FAILURES as error:
            self._forget(plugin, name)
            if isinstance(error, PluginError):
                raise
            raise PluginError(f"plugin {name!r} cannot be used: {_reason(error)}") from error

    def plugins(self) -> dict[str, str]:
        """The version of each loaded plugin."""
        return {name: origin.version for name, origin in self._origins.items()}

    def components(self, kind: str | None = None) -> list[Entry]:
        """All entries, or those of one kind, in the order in which they were loaded."""
        if self._entries is None:
            self._entries = self._collect()
        if kind is None:
            return [entry for entries in self._entries.values() for entry in entries]
        if kind not in hookspecs.KINDS:
            raise ComponentError(f"no kind {kind!r}. {did_you_mean(kind, hookspecs.KINDS)}")
        return self._entries[kind]

    def find(self, kind: str, name: str) -> Entry:
        """The entry of that kind and name; a short name in the core is that of the core."""
        entries = self.components(kind)
        matches = [e for e in entries if name in (e.component.name, e.qualified_name)]
        if len(matches) > 1:
            matches = [e for e in matches if e.plugin == CORE] or matches
        if len(matches) == 1:
            found = matches[0]
            if found.plugin != CORE and (other := self._contested.get((kind, name))):
                raise ComponentError(
                    f"{kind} {name!r} is one of plugin {other!r} too, which did not load: "
                    f"{self.failures[other]}; for the one of {found.plugin!r} write "
                    f"{found.qualified_name}"
                )
            return found
        if matches:
            names = ", ".join(e.qualified_name for e in matches)
            raise ComponentError(
                f"{kind} {name!r} comes from {len(matches)} plugins; write one of {names}"
            )
        raise ComponentError(self._unknown(kind, name, entries))

    def qualified(self, kind: str, spec: Spec | str, plugins: Iterable[str]) -> Spec:
        """The spec; a short name that several plugins offer is qualified by that of `plugins` which
        offers it, and so are the names in its parameters."""
        spec, first = Spec.parse(spec), set(plugins)
        offers = [e for e in self.components(kind) if e.component.name == spec.name]
        own = [entry for entry in offers if entry.plugin in first]
        name = spec.name
        contested = len(offers) > 1 or (kind, name) in self._contested
        if contested and len(own) == 1 and all(entry.plugin != CORE for entry in offers):
            name = own[0].qualified_name
        found = [e for e in self.components(kind) if name in (e.component.name, e.qualified_name)]
        parts = found[0].component.parts if found else {}
        inner = {
            key: self.qualified(parts[key], value, first)
            if key in parts and isinstance(value, Spec)
            else value
            for key, value in spec.params.items()
        }
        return Spec(name, inner)

    def build(
        self, kind: str, spec: Spec | str | Mapping[str, Any], /, *args: Any, **kw: Any
    ) -> Any:
        """Calls the factory of `spec` with `args`, `kw` and the spec's own parameters.

        A module without weights whose component has a `pointwise` gets it as `expression`, with
        numbers for its parameters.
        """
        spec = Spec.parse(spec)
        entry = self.find(kind, spec.name)
        factory = entry.factory()
        _check_parameters(spec, entry, factory, args, kw)
        try:
            made = entry.make(*args, **kw, **spec.params)
        except (KeyError, TypeError, ValueError) as error:
            raise ComponentError(f"{kind} {spec}: {error}") from error
        if entry.component.pointwise and not list(made.parameters()):
            own = {n: p.default for n, p in inspect.signature(factory).parameters.items()}
            made.expression = entry.component.expression({**own, **kw, **spec.params})
        return made

    def derived(self, kind: str, spec: Spec | str, base: type[T], /, *args: Any) -> T:
        """Builds a component whose class must be derived from `base`, whose `component` it sets.

        Raises ComponentError for an object of another class, and for a misspelt member.
        """
        spec = Spec.parse(spec)
        made = self.build(kind, spec, *args)
        named = self.title(kind, spec)
        if not isinstance(made, base):
            raise ComponentError(
                f"{named} makes an object of type {type(made).__name__}, which is no "
                f"{_public_name(base)}; derive its class from that, see docs/{kind}s.md"
            )
        _check_members(made, base, named)
        made.component = named  # type: ignore[attr-defined]
        return made

    def title(self, kind: str, spec: Spec | str) -> str:
        """The kind, plugin, name and parameters of a component, for messages."""
        spec = Spec.parse(spec)
        entry = self.find(kind, spec.name)
        return f"{kind} {spec if entry.plugin == CORE else Spec(entry.qualified_name, spec.params)}"

    def named(self, specs: Iterable[tuple[str, Spec]]) -> Iterator[Entry]:
        """The components of `(kind, spec)` pairs, and those in their parameters."""
        for kind, spec in specs:
            entry = self.find(kind, spec.name)
            yield entry
            parts = entry.component.parts
            yield from self.named(
                (parts[name], Spec.parse(value))
                for name, value in spec.params.items()
                if name in parts and isinstance(value, Spec | str)
            )

    def used_by(self, specs: Iterable[tuple[str, Spec]]) -> dict[str, Origin]:
        """The plugins outside the core that `(kind, spec)` pairs need, with their origins."""
        plugins = {entry.plugin for entry in self.named(specs)}
        return {name: self._origins[name] for name in sorted(plugins - {CORE})}

    def _unknown(self, kind: str, name: str, entries: list[Entry]) -> str:
        others = [e for e in self.components() if name in (e.component.name, e.qualified_name)]
        message = f"no {kind} named {name!r}"
        if others:
            other = others[0].kind
            article = "an" if other[0] in "aeiou" else "a"
            message += f"; {name} is {article} {other}"
            if other not in OF_COMMANDS:
                message += f": use {other}={name}"
        plugin = name.partition("/")[0]
        missing = plugin not in self._origins and plugin not in self.failures
        if "/" in name and missing and NAME.fullmatch(plugin):
            message += f". Plugin {plugin!r} is not installed; {how_to_get(plugin)}"
            if plugin not in OURS:
                message += f". If it is a file, add --plugin {plugin}.py with its path"
        else:
            message += f". {did_you_mean(name, {e.component.name for e in entries})}"
        for failed, reason in self.failures.items():
            message += f". Plugin {failed!r} did not load: {reason}"
        return message

    def _load_entry_points(self, wanted: set[str] | None, disabled: set[str]) -> None:
        if CORE in disabled:
            raise PluginError("plugin 'core' cannot be disabled; name another plugin")
        by_name = attrgetter("name")
        points = sorted(importlib.metadata.entry_points(group=ENTRY_POINT_GROUP), key=by_name)
        for name, claims in groupby(points, by_name):
            if name in disabled or (wanted is not None and name not in wanted):
                continue
            try:
                self._load_entry_point(name, list(claims))
            except FAILURES as error:
                self._note_failure(name, _reason(error))
        for name in sorted((wanted or set()) - {point.name for point in points}):
            self._note_failure(name, f"not installed; {how_to_get(name)}")

    def _load_entry_point(self, name: str, claims: list[importlib.metadata.EntryPoint]) -> None:
        """Loads the plugin of that name, or none where several distributions have one."""
        found = [point.dist for point in claims if point.dist]
        if len(found) > 1:
            # so that a short name which they offer does not mean another plugin's instead
            self._contested |= dict.fromkeys(_offered(claims), name)
            names = " and ".join(sorted(f"{dist.name} {dist.version}" for dist in found))
            raise PluginError(
                f"{names} have the same entry point {name!r}; uninstall all but one of them"
            )
        origin = (found[0].version, found[0].name) if found else ("", "")
        self.add(claims[0].load(), name, origin[0], distribution=origin[1])

    def _note_failure(self, name: str, reason: str) -> None:
        self.failures[name] = reason
        log.warning("plugin %s did not load: %s", name, reason)

    def _register(self, plugin: object, name: str) -> None:
        _check_hooks(plugin, name)
        # pluggy wants one name per module; the core is several modules under one plugin name
        module = getattr(plugin, "__name__", "") if name == CORE else name
        self.manager.register(plugin, f"{name}:{module}" if name == CORE else name)

    def _forget(self, plugin: object, name: str) -> None:
        self._origins.pop(name, None)
        if self.manager.is_registered(plugin):
            self.manager.unregister(plugin)
        self._entries = None

    def _collect(self) -> dict[str, list[Entry]]:
        return {kind: self._collect_kind(kind) for kind in hookspecs.KINDS}

    def _collect_kind(self, kind: str) -> list[Entry]:
        entries: dict[str, Entry] = {}
        for implementation in getattr(self.manager.hook, hookspecs.KINDS[kind]).get_hookimpls():
            plugin = implementation.plugin_name.partition(":")[0]
            listed = implementation.function()
            if not isinstance(listed, list | tuple) or not all(
                isinstance(component, Component) for component in listed
            ):
                raise PluginError(
                    f"plugin {plugin!r}: {hookspecs.KINDS[kind]} returns "
                    f"{shorten(repr(listed), 60)}; return a list of sk.Component"
                )
            for component in listed:
                entry = Entry(kind, component, plugin, self._origins[plugin].version)
                if entry.qualified_name in entries:
                    raise PluginError(f"plugin {plugin!r} offers {kind} {component.name!r} twice")
                entries[entry.qualified_name] = entry
        return list(entries.values())


def how_to_get(plugin: str) -> str:
    """What to do for a plugin that is not installed.

    Of others than speechkit's own it names no package, for anybody can publish one of that name.
    """
    if plugin in OURS:
        return f"type: pip install speechkit-{plugin}"
    return "it is not one of speechkit's own; get it from whoever wrote it"


def _check_name(plugin: str) -> None:
    if not NAME.fullmatch(plugin):
        raise PluginError(
            f"{plugin!r} is no plugin name; rename it to lower-case letters, digits and _"
        )


def _check_hooks(plugin: object, name: str) -> None:
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


def _check_parameters(
    spec: Spec, entry: Entry, factory: Callable[..., Any], args: tuple[Any, ...], kw: dict[str, Any]
) -> None:
    """Names the parameter that the factory does not take, and those that it does."""
    parts = entry.component.parts
    for name, value in spec.params.items():
        # models would not store which plugin it is of
        if isinstance(value, Spec) and name not in parts:
            raise ComponentError(
                f"{entry.kind} {spec}: {name} is given a component; {entry.qualified_name} takes "
                f"one for {sorted(parts) or 'no parameter'}"
            )
    parameters = inspect.signature(factory).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    own = [name for name in list(parameters)[len(args) :] if name not in kw]
    for given in spec.params:
        if given not in own:
            hints = [
                f"; or is it one of {name}'s? Write {name}={{name:key=value,{given}=value}}"
                for name in parts
                if isinstance(value := spec.params.get(name), str) and ":" in value
            ]
            raise ComponentError(
                f"{entry.kind} {spec}: got an unexpected keyword argument {given!r}; it takes "
                f"{own}{''.join(hints)}"
            )


def _check_members(made: object, base: type, named: str) -> None:
    """Raises ComponentError for a member that is spelt almost like one of `base`.

    Where the class defines that one too, the other is a helper of its own.
    """
    classes = type(made).__mro__
    own = {name: x for c in reversed(classes) if issubclass(c, base) for name, x in vars(c).items()}
    others = {name for c in classes if not issubclass(c, base) for name in dir(c)} | {*dir(base)}
    for name in own.keys() - others:
        if name.startswith("_"):
            continue
        like = inspect.isfunction(own[name])
        known = [
            member
            for member, value in vars(base).items()
            if not member.startswith("_")
            and inspect.isfunction(value) == like
            and own[member] is value
        ]
        if near := difflib.get_close_matches(name, known, n=1, cutoff=CLOSE):
            raise ComponentError(
                f"{named} has {name}, which nothing calls; did you mean {near[0]}? If it is a "
                f"helper, name it _{name}"
            )


def _public_name(of: type) -> str:
    """The name by which a class is imported, such as `speechkit.train.Method`."""
    return f"{of.__module__.rpartition('.')[0]}.{of.__name__}"


def _named_plugins(value: str | None) -> tuple[set[str] | None, list[str]]:
    """The only entry points to load, None for all, and the Python files to load beside them."""
    parts = [] if value is None else [part.strip() for part in value.split(",")]
    files = [part for part in parts if part.endswith(".py")]
    return (None if len(files) == len(parts) else _split(value or "") - set(files)), files


def offered(factory: Callable[..., Any], **values: Any) -> dict[str, Any]:
    """Those of the values that the factory has a parameter for."""
    taken = inspect.signature(factory).parameters
    return {name: value for name, value in values.items() if name in taken}


def _split(text: str) -> set[str]:
    return {name.strip() for name in text.split(",") if name.strip()}


def _imported(path: Path) -> ModuleType:
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
        raise PluginError(f"plugin {path} does not import: {_reason(error)}") from error
    return module


def _offered(claims: Iterable[importlib.metadata.EntryPoint]) -> Iterator[tuple[str, str]]:
    """The kind and name of each component that these plugins would offer."""
    for point in claims:
        # a plugin that fails here offers nothing
        with suppress(*FAILURES):
            plugin = point.load()
            for kind, hook in hookspecs.KINDS.items():
                for component in getattr(plugin, hook, list)():
                    yield kind, component.name


FAILURES = (Exception, SystemExit)
"""What a plugin's own code may raise without ending the program."""


def _reason(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"it calls sys.exit({error.code!r})"
    return str(error) or repr(error)


def core_version() -> str:
    """The version of the installed core."""
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return "0+unknown"


@contextmanager
def calling(component: str, call: str = "") -> Iterator[None]:
    """The boundary around a call into a component: what it raises becomes a ComponentError in one
    line that names both, and whose cause has the traceback.

    Errors of speechkit, of files and of memory pass unchanged.
    """
    try:
        yield
    except (SpeechkitError, OSError):
        raise
    # a component may raise any exception
    except Exception as error:
        if is_out_of_memory(error):
            raise
        reason = shorten((str(error).splitlines() or [""])[0], LONGEST_REASON)
        raise ComponentError(
            f"{component}{call and f', {call}'}: {type(error).__name__}: {reason}; "
            "SPEECHKIT_TRACEBACK=1 shows where"
        ) from error


def registry() -> Registry:
    """The process's registry, built on first use."""
    return _INSTEAD[-1] if _INSTEAD else _own()


@contextmanager
def using(other: Registry) -> Iterator[None]:
    """Makes `other` the process's registry for a while."""
    _INSTEAD.append(other)
    try:
        yield
    finally:
        _INSTEAD.remove(other)


_INSTEAD: list[Registry] = []


@cache
def _own() -> Registry:
    return Registry()


def components(kind: str | None = None) -> list[Entry]:
    """All components of a kind, or of every kind, that loaded plugins offer."""
    return registry().components(kind)
