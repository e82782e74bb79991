"""Listing components, and showing one."""

import json

import pytest

from speechkit.hookspecs import KINDS
from speechkit.plugins import components, registry

from .conftest import Cli


def test_one_json_line_for_each_component(cli: Cli) -> None:
    rows = [json.loads(line) for line in cli("plugins", "list", "--json").out.splitlines()]
    keys = ["name", "kind", "plugin", "version", "time", "summary"]
    assert all(list(row) == keys for row in rows)
    assert len(rows) == len(components())
    assert {row["kind"] for row in rows} <= set(KINDS)


def test_kind_filters(cli: Cli) -> None:
    rows = cli("plugins", "list", "--kind", "pool", "--json").out.splitlines()
    assert [json.loads(row)["name"] for row in rows] == ["average", "running"]
    said = cli("plugins", "list", "--kind", "pool").out
    assert "Mean over the valid frames so far" in said
    assert "relu" not in said


def test_failed_plugins_are_listed_with_the_reason(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry().failures, "acme", "No module named 'wings'")
    said = cli("plugins", "list").out
    assert "acme" in said
    assert "No module named 'wings'" in said
    assert json.loads(cli("doctor", "--json").out)["failures"] == registry().failures


def test_show_tells_everything(cli: Cli) -> None:
    row = json.loads(cli("plugins", "show", "gelu", "--json").out)
    assert row["formula"] == "x * (1 + erf(x / sqrt(2))) / 2"
    assert row["paper"] == "arXiv:1606.08415"
    assert row["parameters"] == ["channels: int", "approx: str = 'none'"]
    assert row["factory"].endswith(":gelu")
    said = cli("plugins", "show", "core/gelu").out
    assert "approx: str = 'none'" in said


def test_a_name_of_several_kinds_is_shown_for_each(cli: Cli) -> None:
    rows = [json.loads(x) for x in cli("plugins", "show", "plain", "--json").out.splitlines()]
    assert [row["kind"] for row in rows] == ["block", "stem"]
    row = json.loads(cli("plugins", "show", "plain", "--kind", "stem", "--json").out)
    assert row["kind"] == "stem"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["show", "gelo"], "no component 'gelo'. Did you mean 'gelu'?"),
        (["show", "gelu", "--kind", "norm"], "no norm 'gelu'. Known: "),
        (["list", "--kind", "nrom"], "no kind 'nrom'. Did you mean 'norm'?"),
    ],
)
def test_an_unknown_name_is_one_line(cli: Cli, arguments: list[str], says: str) -> None:
    ended = cli("plugins", *arguments)
    assert ended.code == 1
    assert says in ended.err
    assert ended.err.count("\n") == 1
