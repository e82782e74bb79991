"""What a component says of itself."""

import inspect
import re

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
    if entry.kind in LAYERS:
        specimens(entry)
