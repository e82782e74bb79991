"""The page lists what there is."""

import re
from pathlib import Path

from speechkit.plugins import registry

PAGE = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_it_lists_every_component() -> None:
    mine = [entry for entry in registry().components() if entry.plugin == "probes"]
    for entry in mine:
        assert re.search(rf"^\| `{entry.component.name}` \|", PAGE, re.MULTILINE)
