"""Checks of a component's metadata."""

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, get_args
from unittest.mock import patch

from speechkit.component import Spec, Time, did_you_mean
from speechkit.errors import ComponentError
from speechkit.hookspecs import KINDS
from speechkit.ops.activation import formula_of
from speechkit.plugins import Entry, Registry
from speechkit.testing.specimen import LAYERS, specimens


def check_example_builds(entry: Entry) -> None:
    """Its factory can be imported, takes `example`, and returns a layer if its kind is one."""
    parameters = inspect.signature(entry.factory()).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    unknown = set(entry.component.example) - set(parameters)
    assert takes_any or not unknown, f"example has {sorted(unknown)}; it takes {list(parameters)}"
    if entry.kind in LAYERS:
        specimens(entry)


def check_metadata(entry: Entry) -> None:
    """It has a legal name, a summary, a formula or a paper, and its parts are parameters."""
    component = entry.component
    name = component.name
    assert re.fullmatch("[a-z][a-z0-9_]*", name), f"name {name!r} is not snake_case"
    assert component.summary.strip(), "summary is empty; say in a line what it is"
    assert "\n" not in component.summary, "summary has more than one line"
    assert component.paper or formula_of(entry), "give a formula, an expression or a paper"
    times = get_args(Time)
    assert component.time in times, f"time is {component.time!r}; give {', '.join(times)}"
    parameters = inspect.signature(entry.factory()).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name, kind in component.parts.items():
        assert takes_any or name in parameters, f"parts has {name!r}; it takes {list(parameters)}"
        assert kind in KINDS, f"parts: {name} is of no kind {kind!r}. {did_you_mean(kind, KINDS)}"


def check_parts_are_declared(entry: Entry) -> None:
    """A parameter whose component it builds is one of `parts`, so that models store its plugin."""
    parameters = inspect.signature(entry.factory()).parameters.items()
    given = {**{name: p.default for name, p in parameters}, **entry.component.example}
    with _noting_what_is_built() as built:
        specimens(entry)
    for name, value in given.items():
        with suppress(ComponentError):
            for kind in built.get(str(Spec.parse(value)), ()):
                declared = entry.component.parts.get(name)
                assert declared == kind, (
                    f"it builds the {kind} {value}; declare parts={{{name!r}: {kind!r}}}"
                )


@contextmanager
def _noting_what_is_built() -> Iterator[dict[str, list[str]]]:
    """The kinds as which each component is built meanwhile."""
    built: dict[str, list[str]] = {}
    build = Registry.build

    def note(self: Registry, kind: str, spec: Any, /, *args: Any, **kw: Any) -> Any:
        built.setdefault(str(Spec.parse(spec)), []).append(kind)
        return build(self, kind, spec, *args, **kw)

    with patch.object(Registry, "build", note):
        yield built
