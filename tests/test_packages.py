"""The packages of this repository."""

import tomllib
from pathlib import Path

from speechkit.packages import OURS, how_to_get

PLUGINS = Path(__file__).parents[1] / "plugins"


def test_every_plugin_of_the_repository_is_known() -> None:
    folders = [path.parent for path in PLUGINS.glob("*/pyproject.toml")]
    assert sorted(OURS) == sorted(folder.name for folder in folders)
    for folder in folders:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        assert how_to_get(folder.name) == f"type: pip install {project['name']}"
        assert list(project["entry-points"]["speechkit"]) == [folder.name]


def test_another_plugin_has_no_command() -> None:
    assert "pip" not in how_to_get("acme")
