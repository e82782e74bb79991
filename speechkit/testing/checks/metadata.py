"""What a component says of itself."""

import inspect
import re

from speechkit.component import did_you_mean
from speechkit.hookspecs import KINDS
from speechkit.plugins import Entry
from speechkit.testing.specimen import LAYERS, specimens


def check_metadata(entry: Entry) -> None:
    """It has a legal name, a summary, a formula or a paper, and its example builds."""
    component = entry.component
    name = component.name
    assert re.fullmatch("[a-z][a-z0-9_]*", name), f"name {name!r} is not snake_case"
    assert component.summary.strip(), "summary is empty; say in a line what it is"
    assert "\n" not in component.summary, "summary has more than one line"
    assert component.formula or component.paper, "give a formula or a paper"
    parameters = inspect.signature(entry.factory()).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    unknown = set(component.example) - set(parameters)
    assert takes_any or not unknown, f"example has {sorted(unknown)}; it takes {list(parameters)}"
    for name, kind in component.parts.items():
        assert takes_any or name in parameters, f"parts has {name!r}; it takes {list(parameters)}"
        assert kind in KINDS, f"parts: {name} is of no kind {kind!r}. {did_you_mean(kind, KINDS)}"
    if entry.kind in LAYERS:
        specimens(entry)
