"""`speechkit ablate` prints a row for each value, and JSON lines on request."""

import json
from pathlib import Path

import pytest

from .conftest import Cli
from .test_train import recipe  # noqa: F401  the fixture


@pytest.mark.parametrize("as_json", [False, True])
def test_a_row_for_each_value(recipe: Path, cli: Cli, tmp_path: Path, as_json: bool) -> None:  # noqa: F811
    flags = ["--json"] if as_json else []
    values = ["model.activation", "relu", "silu"]
    out = str(tmp_path / "runs")
    done = cli("ablate", str(recipe), *values, "--out", out, "--seeds", "1", *flags)
    assert done.code == 0
    lines = done.out.splitlines()
    if as_json:
        assert [json.loads(line)["value"] for line in lines] == ["relu", "silu"]
    else:
        assert [line.split(" | ")[0] for line in lines[2:]] == ["| `relu`", "| `silu`"]
        assert len({line.count("|") for line in lines}) == 1


def test_a_wrong_setting_prints_nothing_but_why(recipe: Path, cli: Cli, tmp_path: Path) -> None:  # noqa: F811
    done = cli("ablate", recipe, "model.activatoin", "relu", "--out", tmp_path / "runs")
    assert (done.code, done.out) == (1, "")
    assert "Did you mean 'activation'" in done.err
    assert not (tmp_path / "runs").exists()
