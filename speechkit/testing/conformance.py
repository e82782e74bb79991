"""Runs the checks of every component of a plugin, from pytest or from a script."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import SkipTest

import torch

from speechkit.component import did_you_mean
from speechkit.errors import MissingExtraError, PluginError
from speechkit.plugins import CORE, Entry, Registry, using
from speechkit.testing.checks import LONG, Function, functions_for
from speechkit.testing.checks.command import commands_of
from speechkit.testing.checks.metadata import check_example_builds


@dataclass(frozen=True)
class Outcome:
    """The result of a check: `error` is the fault in one line, and `skipped` the reason why it was
    not run. Both are empty if the component passed, or failed for the reason `expected`."""

    id: str
    expected: str = ""
    error: str = ""
    skipped: str = ""


@dataclass(frozen=True)
class Check:
    """One check of one component; calling it raises AssertionError if it fails."""

    entry: Entry
    function: Function
    registry: Registry | None = None
    """The registry to use while the check runs, if it is not the global one."""

    @property
    def id(self) -> str:
        """Its id, such as `norm:norms/rms::check_time_field_is_true`."""
        return f"{self.entry.kind}:{self.entry.qualified_name}::{self.function.__name__}"

    @property
    def expected(self) -> str:
        """The reason why it is expected to fail, empty if it is not."""
        return self.entry.component.exempt.get(self.function.__name__, "")

    def __call__(self) -> None:
        """Runs it; SkipTest where an optional package is missing."""
        # what a check draws does not depend on the checks before it
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self._run()

    def _run(self) -> None:
        try:
            with using(self.registry) if self.registry else nullcontext():
                self.function(self.entry)
        except MissingExtraError as error:
            raise SkipTest(str(error)) from error

    def outcome(self) -> Outcome:
        """Runs the check; an expected failure that does not occur is an error."""
        try:
            self()
        except SkipTest as error:
            return Outcome(self.id, self.expected, skipped=str(error))
        # a component may raise any exception
        except Exception as error:
            reason = " ".join(str(error).split()) or repr(error)
            name = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
            return Outcome(self.id, self.expected, error="" if self.expected else name + reason)
        wrong = f"passes, but is expected to fail: {self.expected}" if self.expected else ""
        return Outcome(self.id, self.expected, error=wrong)


def checks_of(plugin: str, only: Iterable[str] = ()) -> list[Check]:
    """The checks of every component of a plugin.

    `plugin` is the name of an installed one, "core" for the built-in components, or the path of a
    plugin in one file. `only` names components or checks. Raises PluginError where the plugin does
    not load, or where it or `only` names a check that does not exist.
    """
    registry, name = _load(plugin)
    entries = [entry for entry in registry.components() if entry.plugin == name]
    entries += commands_of(registry, name)
    checks = [Check(e, function, registry) for e in entries for function in functions_for(e)]
    for entry in entries:
        known = {c.function.__name__ for c in checks if c.entry is entry}
        for unknown in sorted(entry.component.exempt.keys() - known):
            raise PluginError(
                f"{entry.kind} {entry.qualified_name}: there is no check {unknown!r} to fail. "
                f"{did_you_mean(unknown, known)}"
            )
    return _named(checks, list(only))


def run_checks(plugin: str, only: Iterable[str] = (), jobs: int = 1) -> Iterator[Outcome]:
    """The outcome of each check of a plugin, with the arguments of `checks_of`; `jobs` processes
    share the components. One that cannot be built has only the outcome that says so."""
    only = tuple(only)
    groups = {name: list(own) for name, own in groupby(checks_of(plugin, only), _component)}
    if jobs == 1:
        for group in groups.values():
            yield from _outcomes(group)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn"), _one_thread) as pool:
        work = [pool.submit(_outcomes_here, plugin, only, name) for name in groups]
        for done in work:
            yield from done.result()


def check_plugin(plugin: str) -> dict[str, str]:
    """Runs every check of a plugin; returns the errors by check id."""
    return {outcome.id: outcome.error for outcome in run_checks(plugin) if outcome.error}


def parametrize_checks(plugin: str, long: Any = None) -> Callable[[Callable[..., None]], Any]:
    """Decorates a pytest test with one argument, `check`, that calls it: one test for each check.

    A check that the component is exempt from is a strict xfail. `long` is a mark such as
    `pytest.mark.slow` for the long checks of all components but the first of each kind.
    """
    import pytest

    first: dict[str, str] = {}
    parameters = []
    for check in checks_of(plugin):
        marks = [pytest.mark.xfail(reason=check.expected, strict=True)] if check.expected else []
        is_first = first.setdefault(check.entry.kind, _component(check)) == _component(check)
        if long is not None and check.function in LONG and not is_first:
            marks.append(long)
        parameters.append(pytest.param(check, id=check.id, marks=marks))
    return pytest.mark.parametrize("check", parameters)


def _component(check: Check) -> str:
    return check.id.partition("::")[0]


def _one_thread() -> None:
    torch.set_num_threads(1)


def _outcomes(checks: list[Check]) -> Iterator[Outcome]:
    """The outcomes of one component's checks."""
    for check in checks:
        outcome = check.outcome()
        yield outcome
        if check.function is check_example_builds and outcome.error and not outcome.expected:
            # each of the others would fail for the same reason
            return


def _outcomes_here(plugin: str, only: tuple[str, ...], component: str) -> list[Outcome]:
    """The outcomes of one component, computed in another process."""
    return list(_outcomes([c for c in _checks_here(plugin, only) if _component(c) == component]))


# a process checks several components of a plugin, which it can load once
_checks_here = cache(checks_of)


def _named(checks: list[Check], only: list[str]) -> list[Check]:
    """The checks in `only`, by their own names or those of their components."""
    if not only:
        return checks
    names = {
        check.id: {
            check.entry.component.name,
            check.entry.qualified_name,
            check.function.__name__,
            _component(check),
            check.id,
        }
        for check in checks
    }
    known = {check.entry.component.name for check in checks}
    known |= {check.function.__name__ for check in checks}
    for name in only:
        if not any(name in own for own in names.values()):
            raise PluginError(f"no component or check {name!r}. {did_you_mean(name, known)}")
    return [check for check in checks if names[check.id] & set(only)]


def _load(plugin: str) -> tuple[Registry, str]:
    """A registry with only that plugin and the core, and the plugin's name."""
    if plugin.endswith(".py"):
        registry = Registry({"SPEECHKIT_PLUGINS": ""})
        registry.load_file(plugin)
        return registry, Path(plugin).stem
    registry = Registry({"SPEECHKIT_PLUGINS": "" if plugin == CORE else plugin})
    if plugin in registry.failures:
        raise PluginError(f"plugin {plugin!r}: {registry.failures[plugin]}")
    return registry, plugin
