"""`speechkit ablate` prints a row for each cell, JSON lines on request, and writes a page."""

import json
from pathlib import Path

import pytest

from .conftest import Cli
from .test_train import recipe  # noqa: F401  the fixture


@pytest.mark.parametrize("as_json", [False, True])
def test_a_row_for_each_cell(recipe: Path, cli: Cli, tmp_path: Path, as_json: bool) -> None:  # noqa: F811
    axes = ["--axis", "activation=relu,silu", "--axis", "norm=batch,none"]
    out = tmp_path / "runs"
    done = cli("ablate", recipe, *axes, "--out", out, "--seeds", "1", *as_json * ["--json"])
    assert done.code == 0
    lines = done.out.splitlines()
    cells = [["relu", "batch"], ["relu", "none"], ["silu", "batch"], ["silu", "none"]]
    if as_json:
        assert [list(json.loads(line)["settings"].values()) for line in lines] == cells
    else:
        assert lines[0].startswith("| activation | norm | parameters |")
        assert [line.split(" | ")[:2] for line in lines[2:]] == [
            [f"| `{activation}`", f"`{norm}`"] for activation, norm in cells
        ]
        assert len({line.count("|") for line in lines}) == 1
    assert (out / "ablation.html").read_text().count("<circle") == 4


def test_a_wrong_setting_prints_nothing_but_why(recipe: Path, cli: Cli, tmp_path: Path) -> None:  # noqa: F811
    done = cli("ablate", recipe, "--axis", "activatoin=relu", "--out", tmp_path / "runs")
    assert (done.code, done.out) == (1, "")
    assert "Did you mean 'activation'" in done.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "given", [("--axis", "seed=2"), ("--axis", " seed = 2"), ("--set", "seed=2")]
)
def test_seed_is_no_setting(recipe: Path, cli: Cli, tmp_path: Path, given: tuple[str, str]) -> None:  # noqa: F811
    axis, out = ["--axis", "activation=relu"], tmp_path / "runs"
    done = cli("ablate", recipe, *axis, *given, "--out", out)
    assert (done.code, done.out) == (1, "")
    assert "give their number as --seeds" in done.err
    assert not out.exists()
