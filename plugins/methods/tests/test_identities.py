"""Statements of papers: they hold, and without what they need they do not."""

from collections.abc import Callable

import pytest
from speechkit_methods.identities import (
    IDENTITIES,
    bits_by_folding,
    matching_starts,
    parallel_duality,
    steps_in_context,
)
from speechkit_methods.scenarios import Finding
from typer.testing import CliRunner

from speechkit.cli.main import app


@pytest.mark.parametrize("name", IDENTITIES)
def test_what_the_paper_states_holds(name: str) -> None:
    finding = IDENTITIES[name]()
    assert finding.holds, finding


@pytest.mark.parametrize(
    "without",
    [
        lambda: steps_in_context(softmax=True),
        lambda: parallel_duality(balanced=False),
        lambda: matching_starts(matching=False),
        lambda: bits_by_folding(folds=5),
        lambda: bits_by_folding(slope=1.9),
    ],
    ids=["softmax", "one layer decayed", "squared error", "a fold less", "another slope"],
)
def test_it_does_not_hold_without_what_it_needs(without: Callable[[], Finding]) -> None:
    assert not without().holds


def test_the_command_tries_all_of_them() -> None:
    done = CliRunner().invoke(app, ["verify", "--all"])
    assert done.exit_code == 0, done.output
    assert done.stdout.count("holds  ") == 9
    both = CliRunner().invoke(app, ["verify", "easy_filter", "--all"])
    assert both.exit_code == 1
