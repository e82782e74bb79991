"""The page says what there is."""

import inspect
import re
from pathlib import Path

from speechkit.plugins import registry

PAGE = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
TAKEN = {
    "channel": 2,
    "activation": 1,
    "mixer": 5,
    "block": 5,
    "head": 2,
    "method": 0,
    "transform": 0,
}
"""How many parameters are the kind's own."""


def test_its_code_runs() -> None:
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(block, names)


def test_it_lists_every_component_and_parameter() -> None:
    mine = [entry for entry in registry().components() if entry.plugin == "kan"]
    for entry in mine:
        name = entry.component.name
        kind = "" if entry.kind == "channel" else rf" {entry.kind} \|"
        row = re.search(rf"^\| `{name}` \|{kind}.*\|$", PAGE, re.MULTILINE)
        assert row, f"{entry.kind} {name} is in no table"
        assert entry.component.paper.removeprefix("arXiv:") in row[0]
        own = list(inspect.signature(entry.factory()).parameters.values())[TAKEN[entry.kind] :]
        for parameter in own:
            default = f"{parameter.name}={str(parameter.default).lower()}"
            assert default in row[0].lower(), f"{name}: {default} is not in its row"


def test_its_numbers_of_parameters() -> None:
    for entry in registry().components("channel"):
        if entry.plugin == "kan":
            layer = entry.factory()(64, 64)
            count = sum(parameter.numel() for parameter in layer.parameters())
            assert re.search(rf"`{entry.component.name}` .* {count} \|$", PAGE, re.MULTILINE)
