"""Holds every component of a plugin to its contract, from pytest or from a script."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import SkipTest

from speechkit.component import did_you_mean
from speechkit.errors import MissingExtraError, PluginError
from speechkit.plugins import CORE, Entry, Registry
from speechkit.testing.checks import Function, functions_for

DECLARATION = "EXPECTED_FAILURES"
"""The name under which a plugin's module maps check ids to the reasons why they fail."""


@dataclass(frozen=True)
class Check:
    """One check of one component; calling it raises AssertionError where it does not hold.

    `expected` is the reason why it is known to fail, if it is.
    """

    entry: Entry
    function: Function
    expected: str = ""

    @property
    def id(self) -> str:
        """Such as `norm:norms/rms::check_time_field_is_true`."""
        return f"{self.entry.kind}:{self.entry.qualified_name}::{self.function.__name__}"

    def __call__(self) -> None:
        """Runs it; SkipTest where an optional package is missing."""
        try:
            self.function(self.entry)
        except MissingExtraError as error:
            raise SkipTest(str(error)) from error

    def error(self) -> str | None:
        """What is wrong, in a line; a failure that is expected is wrong where it does not come."""
        try:
            self()
        except SkipTest:
            return None
        # a component may fail with whatever its code raises
        except Exception as error:
            reason = " ".join(str(error).split()) or repr(error)
            name = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
            return None if self.expected else name + reason
        return f"passes, but is expected to fail: {self.expected}" if self.expected else None


def checks_of(plugin: str, expected_failures: Mapping[str, str] | None = None) -> list[Check]:
    """The checks of every component of a plugin: an installed one's name, "core" for the built-in
    ones, or the path of a plugin that is a single file.

    `expected_failures` maps ids to reasons, beside those in the plugin's EXPECTED_FAILURES.
    PluginError where the plugin does not load, or an id is none of its checks.
    """
    registry, plugin = _load(plugin)
    expected = {**_declared(registry, plugin), **(expected_failures or {})}
    checks = [
        Check(entry, function)
        for entry in registry.components()
        if entry.plugin == plugin
        for function in functions_for(entry)
    ]
    known = {check.id for check in checks}
    for unknown in sorted(expected.keys() - known):
        component = unknown.partition("::")[0]
        near = [name for name in known if name.startswith(f"{component}::")]
        near = near or [name.partition("::")[0] for name in known]
        raise PluginError(f"no check {unknown!r} to fail. {did_you_mean(unknown, set(near))}")
    return [Check(c.entry, c.function, expected.get(c.id, "")) for c in checks]


def check_plugin(plugin: str) -> dict[str, str]:
    """Runs every check of a plugin; what is wrong with it, by check id."""
    errors = ((check.id, check.error()) for check in checks_of(plugin))
    return {name: error for name, error in errors if error is not None}


def parametrize_checks(
    plugin: str, expected_failures: Mapping[str, str] | None = None
) -> Callable[[Callable[..., None]], Any]:
    """Decorates a pytest test with one argument, `check`, that calls it: one test for each check.

    Arguments as of `checks_of`. An expected failure is a strict xfail.
    """
    import pytest

    return pytest.mark.parametrize(
        "check",
        [
            pytest.param(
                check,
                id=check.id,
                marks=[pytest.mark.xfail(reason=check.expected, strict=True)]
                if check.expected
                else [],
            )
            for check in checks_of(plugin, expected_failures)
        ],
    )


def _load(plugin: str) -> tuple[Registry, str]:
    """A registry with that plugin and the core alone, and the plugin's name."""
    if plugin.endswith(".py"):
        registry = Registry({"SPEECHKIT_PLUGINS": ""})
        registry.load_file(plugin)
        return registry, Path(plugin).stem
    registry = Registry({"SPEECHKIT_PLUGINS": "" if plugin == CORE else plugin})
    if plugin in registry.failures:
        raise PluginError(f"plugin {plugin!r}: {registry.failures[plugin]}")
    return registry, plugin


def _declared(registry: Registry, plugin: str) -> dict[str, str]:
    """The expected failures of a plugin's module, or of the core's several modules."""
    modules = [m for n, m in registry.manager.list_name_plugin() if n.partition(":")[0] == plugin]
    return {k: v for m in modules for k, v in getattr(m, DECLARATION, {}).items()}
