"""The page says what there is."""

import inspect
import re
from pathlib import Path

from speechkit.plugins import registry

PAGE = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_its_code_runs() -> None:
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        exec(block, names)


def test_it_lists_every_component_and_parameter() -> None:
    mine = [entry for entry in registry().components() if entry.plugin == "activations"]
    assert f"{sum(entry.kind == 'activation' for entry in mine)} names" in PAGE
    for entry in mine:
        name = entry.component.name
        row = re.search(rf"^\|.*`{name}`.*\|$", PAGE, re.MULTILINE)
        assert row, f"{entry.qualified_name} is in no table"
        if entry.kind != "activation" or entry.component.in_factor > 1:
            continue
        for parameter in list(inspect.signature(entry.factory()).parameters.values())[1:]:
            default = f"{parameter.name}={_text(parameter.default)}"
            assert default in row[0].replace("−", "-"), f"{name}: {default} is not in its row"


def _text(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)
