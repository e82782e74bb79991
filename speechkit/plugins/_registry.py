"""Loads plugins and finds their components."""

import importlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, TypeVar

import pluggy

from speechkit import hookspecs
from speechkit.component import Component, Moved, Spec, did_you_mean
from speechkit.errors import ComponentError, PluginError
from speechkit.packages import DISTRIBUTION, NAME, OURS, core_version, how_to_get
from speechkit.plugins.checks import check_members, check_parameters, public_name
from speechkit.plugins.entry import Entry, Origin
from speechkit.plugins.loading import (
    FAILURES,
    check_hooks,
    check_name,
    imported,
    named_plugins,
    offered_by,
    reason,
    split,
)

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

log = logging.getLogger("speechkit.plugins")
T = TypeVar("T")

CORE = "core"
ENTRY_POINT_GROUP = "speechkit"
BUILTIN_MODULES = (
    "speechkit.builtin.layers",
    "speechkit.builtin.frontends",
    "speechkit.builtin.augmentations",
    "speechkit.builtin.training",
    "speechkit.builtin.exporters",
    "speechkit.builtin.transforms",
)
OF_COMMANDS = frozenset({"exporter", "probe", "task", "transform"})
"""Kinds without a setting of the same name."""


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
        self._moved: dict[tuple[str, str], str] = {}
        self._contested: dict[tuple[str, str], str] = {}
        for name in BUILTIN_MODULES:
            self._register(importlib.import_module(name), CORE)
        names, files = named_plugins(environment.get("SPEECHKIT_PLUGINS"))
        self._load_entry_points(names, split(environment.get("SPEECHKIT_DISABLE_PLUGINS", "")))
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
        check_name(path.stem)
        self.add(imported(path), path.stem, file=path.name)
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
        check_name(name)
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
            raise PluginError(f"plugin {name!r} cannot be used: {reason(error)}") from error

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
        """The entry of that kind and name; a short name in the core is that of the core.

        A former name is that of the component's new place.
        """
        matches = self._matches(kind, name)
        if not matches and (kind, name) in self._moved:
            name = self._moved[kind, name]
            matches = self._matches(kind, name)
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
        raise ComponentError(self._unknown(kind, name))

    def qualified(self, kind: str, spec: Spec | str, plugins: Iterable[str]) -> Spec:
        """The spec; a short name that several plugins offer is qualified by that of `plugins` which
        offers it, and so are the names in its parameters."""
        spec, plugins = Spec.parse(spec), list(plugins)
        offers = [e for e in self.components(kind) if e.component.name == spec.name]
        places = [self._moved.get((kind, f"{plugin}/{spec.name}"), plugin) for plugin in plugins]
        first = {place.partition("/")[0] for place in places}
        own = [entry for entry in offers if entry.plugin in first]
        name = spec.name
        contested = len(offers) > 1 or (kind, name) in self._contested
        if contested and len(own) == 1 and all(entry.plugin != CORE for entry in offers):
            name = own[0].qualified_name
        found = self._matches(kind, self._moved.get((kind, name), name))
        parts = found[0].component.parts if found else {}
        inner = {
            key: self.qualified(parts[key], value, plugins)
            if key in parts and isinstance(value, Spec)
            else value
            for key, value in spec.params.items()
        }
        return Spec(name, inner)

    def build(
        self, kind: str, spec: Spec | str | Mapping[str, Any], /, *args: Any, **kw: Any
    ) -> Any:
        """Calls the factory of `spec` with `args`, `kw` and the spec's own parameters."""
        spec = Spec.parse(spec)
        entry = self.find(kind, spec.name)
        factory = entry.factory()
        check_parameters(spec, entry, factory, args, kw)
        try:
            return entry.make(*args, **kw, **spec.params)
        except (KeyError, TypeError, ValueError) as error:
            raise ComponentError(f"{kind} {spec}: {error}") from error

    def derived(self, kind: str, spec: Spec | str, base: type[T], /, *args: Any) -> T:
        """Builds a component whose class must be derived from `base`, whose `component` it sets.

        Raises ComponentError for an object of another class, and for a misspelt or missing member.
        """
        spec = Spec.parse(spec)
        made = self.build(kind, spec, *args)
        named, page = self.title(kind, spec), f"docs/{kind}s.md"
        if not isinstance(made, base):
            raise ComponentError(
                f"{named} makes an object of type {type(made).__name__}, which is no "
                f"{public_name(base)}; derive its class from that, see {page}"
            )
        check_members(made, base, named, page)
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

    def _matches(self, kind: str, name: str) -> list[Entry]:
        entries = self.components(kind)
        return [e for e in entries if name in (e.component.name, e.qualified_name)]

    def _unknown(self, kind: str, name: str) -> str:
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
            message += f". {did_you_mean(name, {e.component.name for e in self.components(kind)})}"
        for failed, why in self.failures.items():
            message += f". Plugin {failed!r} did not load: {why}"
        return message

    def _load_entry_points(self, wanted: set[str] | None, disabled: set[str]) -> None:
        if CORE in disabled:
            raise PluginError("plugin 'core' cannot be disabled; name another plugin")
        from importlib.metadata import entry_points

        by_name = attrgetter("name")
        points = sorted(entry_points(group=ENTRY_POINT_GROUP), key=by_name)
        for name, claims in groupby(points, by_name):
            if name in disabled or (wanted is not None and name not in wanted):
                continue
            try:
                self._load_entry_point(name, list(claims))
            except FAILURES as error:
                self._note_failure(name, reason(error))
        for name in sorted((wanted or set()) - {point.name for point in points}):
            self._note_failure(name, f"not installed; {how_to_get(name)}")

    def _load_entry_point(self, name: str, claims: "list[EntryPoint]") -> None:
        """Loads the plugin of that name, or none where several distributions have one."""
        found = [point.dist for point in claims if point.dist]
        if len(found) > 1:
            # so that a short name which they offer does not mean another plugin's instead
            self._contested |= dict.fromkeys(offered_by(claims), name)
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
        check_hooks(plugin, name)
        # pluggy wants one name per module; the core is several modules under one plugin name
        module = getattr(plugin, "__name__", "") if name == CORE else name
        self.manager.register(plugin, f"{name}:{module}" if name == CORE else name)

    def _forget(self, plugin: object, name: str) -> None:
        self._origins.pop(name, None)
        if self.manager.is_registered(plugin):
            self.manager.unregister(plugin)
        self._entries = None

    def _collect(self) -> dict[str, list[Entry]]:
        self._moved = {}
        return {kind: self._collect_kind(kind) for kind in hookspecs.KINDS}

    def _collect_kind(self, kind: str) -> list[Entry]:
        entries: dict[str, Entry] = {}
        for implementation in getattr(self.manager.hook, hookspecs.KINDS[kind]).get_hookimpls():
            plugin = implementation.plugin_name.partition(":")[0]
            listed = implementation.function()
            if not isinstance(listed, list | tuple) or not all(
                isinstance(component, Component | Moved) for component in listed
            ):
                raise PluginError(
                    f"plugin {plugin!r}: {hookspecs.KINDS[kind]} returns "
                    f"{shorten(repr(listed), 60)}; return a list of sk.Component"
                )
            for component in listed:
                if isinstance(component, Moved):
                    for name in (component.name, f"{plugin}/{component.name}"):
                        self._moved[kind, name] = component.to
                    continue
                entry = Entry(kind, component, plugin, self._origins[plugin].version)
                if entry.qualified_name in entries:
                    raise PluginError(f"plugin {plugin!r} offers {kind} {component.name!r} twice")
                entries[entry.qualified_name] = entry
        return list(entries.values())
