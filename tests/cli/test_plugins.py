"""Listing components, showing one, checking all of a plugin's, and beginning a plugin."""

import json
import re
import sys
from pathlib import Path

import pytest

from speechkit.hookspecs import KINDS
from speechkit.plugins import components, registry

from .conftest import Cli

pytestmark = pytest.mark.usefixtures("forgotten")


def test_one_json_line_for_each_component(cli: Cli) -> None:
    rows = [json.loads(line) for line in cli("plugins", "list", "--json").out.splitlines()]
    keys = ["name", "kind", "plugin", "version", "time", "summary"]
    assert all(list(row) == keys for row in rows)
    assert len(rows) == len(components())
    assert {row["kind"] for row in rows} <= set(KINDS)


def test_kind_filters(cli: Cli) -> None:
    rows = cli("plugins", "list", "--kind", "pool", "--json").out.splitlines()
    assert [json.loads(row)["name"] for row in rows] == ["average", "running"]
    printed = cli("plugins", "list", "--kind", "pool").out
    assert "Mean over the valid frames so far" in printed
    assert "relu" not in printed


def test_failed_plugins_are_listed_with_the_reason(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry().failures, "acme", "No module named 'wings'")
    printed = cli("plugins", "list").out
    assert "acme" in printed
    assert "No module named 'wings'" in printed
    assert json.loads(cli("doctor", "--json").out)["failures"] == registry().failures


def test_show_prints_everything(cli: Cli) -> None:
    row = json.loads(cli("plugins", "show", "gelu", "--json").out)
    assert row["formula"] == "x * (1 + erf(x / sqrt(2))) / 2"
    assert row["paper"] == "arXiv:1606.08415"
    assert row["parameters"] == ["channels: int", "approx: str = 'none'"]
    assert row["factory"].endswith(":gelu")
    printed = cli("plugins", "show", "core/gelu").out
    assert "approx: str = 'none'" in printed


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


MIXED_UP = """
import torch
from speechkit import Component, hookimpl

class Centred(torch.nn.Module):
    def forward(self, x):
        return x - x.mean(2, keepdim=True)

@hookimpl
def speechkit_norms():
    return [Component(name="centred", factory=lambda c: Centred(), summary="-", formula="-")]
"""


def test_check_prints_a_line_for_each_failure(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mixed_up.py").write_text(MIXED_UP)
    ended = cli("plugins", "check", tmp_path / "mixed_up.py")
    assert ended.code == 1
    *failures, last = ended.out.splitlines()
    assert "norm:mixed_up/centred::check_time_field_is_true: declares time='frame'" in ended.out
    counts = rf": \d+ checks, {len(failures)} failed, 0 skipped, 0 expected to fail$"
    assert re.search(counts, last)


def test_check_gives_each_failure_as_json(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mixed_up.py").write_text(MIXED_UP)
    rows = [
        json.loads(line)
        for line in cli("plugins", "check", tmp_path / "mixed_up.py", "--json").out.splitlines()
    ]
    assert all(list(row) == ["check", "error"] for row in rows)
    assert "norm:mixed_up/centred::check_padding_is_inert" in {row["check"] for row in rows}


def test_check_is_content_with_a_new_plugin(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("plugins", "new", tmp_path / "speechkit-brand-new").code == 0
    monkeypatch.syspath_prepend(tmp_path / "speechkit-brand-new")
    module = tmp_path / "speechkit-brand-new" / "speechkit_brand_new" / "__init__.py"
    (tmp_path / "alone.py").write_text(module.read_text().replace(', "torch.export", "onnx"', ""))
    ended = cli("plugins", "check", tmp_path / "alone.py")
    assert (ended.code, ended.err) == (0, "")
    assert re.search(r": \d+ checks, 0 failed, 0 skipped, 0 expected to fail$", ended.out)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("", "nothing of '{}' was checked: it offers no component"),
        (MIXED_UP.replace("@hookimpl\n", ""), "speechkit_norms is not marked as a hook; write @"),
        (MIXED_UP.replace("_norms", "_norm"), "no hook 'speechkit_norm'. Did you mean 'speechkit_"),
        (MIXED_UP.replace("_norms", "_wonders"), "wants a newer speechkit; try: pip install -U sp"),
    ],
)
def test_a_plugin_of_which_nothing_can_be_checked(
    cli: Cli, tmp_path: Path, source: str, says: str
) -> None:
    path = tmp_path / "hookless.py"
    path.write_text(source)
    ended = cli("plugins", "check", path)
    assert ended.code == 1
    assert says.format(path) in ended.err
    assert ended.err.count("\n") == 1


SKIPPED = """
from speechkit import Component, hookimpl
from speechkit.errors import MissingExtraError

def swift():
    raise MissingExtraError("wings", "flight")

@hookimpl
def speechkit_losses():
    return [Component(name="swift", factory=swift, summary="-", formula="-")]
"""


def test_skipped_checks_are_named_and_are_no_checks(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "skipping.py").write_text(SKIPPED)
    check = "check_losses_are_finite"
    ended = cli("plugins", "check", tmp_path / "skipping.py", "--only", check)
    assert ended.code == 1
    assert f"loss:skipping/swift::{check}: skipped: this needs wings" in ended.out
    assert "1 checks, 0 failed, 1 skipped" in ended.out
    assert "install what the skipped checks need" in ended.err
    del sys.modules["skipping"]
    ended = cli("plugins", "check", tmp_path / "skipping.py", "--only", check, "--json")
    assert list(json.loads(ended.out)) == ["check", "skipped"]


def test_a_plugin_may_implement_a_hook_of_a_later_speechkit(cli: Cli, tmp_path: Path) -> None:
    later = "@hookimpl(optionalhook=True)\ndef speechkit_wonders():\n    return []\n"
    (tmp_path / "early.py").write_text(MIXED_UP + later)
    ended = cli("plugins", "check", tmp_path / "early.py", "--only", "check_metadata")
    assert (ended.code, ended.err) == (0, "")


def test_new_uses_the_name_given(cli: Cli, tmp_path: Path) -> None:
    ended = cli("plugins", "new", tmp_path / "here", "--name", "fast_norms")
    assert ended.code == 0
    assert ended.out.startswith(f"plugin fast_norms in {tmp_path / 'here'}")
    assert (tmp_path / "here" / "speechkit_fast_norms" / "__init__.py").is_file()
    assert 'fast_norms = "speechkit_fast_norms"' in (tmp_path / "here/pyproject.toml").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["9lives"], "'9lives' is no plugin name; add --name"),
        (["x", "--name", "Acme"], "'Acme' is no plugin name; add --name"),
        (["core"], "'core' is the built-in plugin"),
        (["taken"], "taken is there already"),
    ],
)
def test_new_refuses_in_one_line(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    ended = cli("plugins", "new", *arguments)
    assert ended.code == 1
    assert says in ended.err
    assert ended.err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]
