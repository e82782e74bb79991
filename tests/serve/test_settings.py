"""The page about the server states its limits."""

import re
from dataclasses import fields
from pathlib import Path

from speechkit.serve.settings import Limits

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"


def test_the_page_states_each_limit_and_its_default() -> None:
    found = re.findall(r"^\| `(\w+)` \| (\d+)", PAGE.read_text("utf-8"), re.MULTILINE)
    assert {name: float(value) for name, value in found} == {
        field.name: field.default for field in fields(Limits)
    }
