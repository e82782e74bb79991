"""The page says what there is."""

import re
from pathlib import Path

from speechkit.plugins import registry

PAGE = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_its_code_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)


def test_it_lists_every_component() -> None:
    mine = [entry for entry in registry().components() if entry.plugin == "mixers"]
    assert mine
    for entry in mine:
        name = entry.component.name
        assert re.search(rf"^\|.*`{name}`.*\|$", PAGE, re.MULTILINE), entry.qualified_name


def test_its_rows_link_the_papers_of_the_components() -> None:
    papers = {
        entry.component.name: entry.component.paper
        for entry in registry().components()
        if entry.plugin == "mixers"
    }
    for name, paper in papers.items():
        rows = re.findall(rf"^\| `{name}`.*\|$", PAGE, re.MULTILINE)
        linked = re.findall(r"\[(\d{4}\.\d{5})\]", " ".join(rows))
        assert linked == re.findall(r"\d{4}\.\d{5}", paper), name


def test_the_lru_is_of_its_own_paper_and_of_that_on_universality() -> None:
    (lru,) = (e.component for e in registry().components() if e.qualified_name == "mixers/lru")
    assert lru.paper == "arXiv:2303.06349, arXiv:2307.11888"
