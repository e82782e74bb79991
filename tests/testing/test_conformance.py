"""How checks are named, run and expected to fail, and that the built-in components pass them."""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from unittest import SkipTest

import pytest

from speechkit.component import Component
from speechkit.errors import MissingExtraError, PluginError
from speechkit.plugins import CORE, Entry
from speechkit.testing import (
    Check,
    Outcome,
    check_plugin,
    checks,
    checks_of,
    parametrize_checks,
    run_checks,
)

PLUGIN = """
import torch
from speechkit import Component, hookimpl

class Centred(torch.nn.Module):
    def forward(self, x):
        return x - x.mean(2, keepdim=True)

@hookimpl
def speechkit_norms():
    return [
        Component(
            name="whole",
            factory=lambda channels: Centred(),
            summary="-",
            formula="-",
            exempt={whole},
        ),
        Component(
            name="none", factory="torch.nn:Identity", summary="-", formula="x", exempt={none}
        ),
    ]
"""
NOTHING: Mapping[str, str] = {}
FAILS = (
    "check_padding_is_inert",
    "check_invalid_frames_are_skipped",
    "check_time_field_is_true",
    "check_time_field_in_training",
    "check_stream_equals_offline",
    "check_rows_are_free",
    "check_short_inputs",
    "check_long_inputs",
)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`install(name, whole, none)` puts a plugin on the path, as pip would; its two components are
    exempt from what is given."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(
        name: str, whole: Mapping[str, str] = NOTHING, none: Mapping[str, str] = NOTHING
    ) -> None:
        module = f"{name}_to_check"
        # set, so that monkeypatch takes the module out of sys.modules again
        monkeypatch.setitem(sys.modules, module, None)
        del sys.modules[module]
        (tmp_path / f"{module}.py").write_text(PLUGIN.format(whole=dict(whole), none=dict(none)))
        info = tmp_path / f"speechkit_{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[speechkit]\n{name} = {module}\n")

    return write


@parametrize_checks(CORE)
def test_built_in(check: Check) -> None:
    check()


def test_the_plugins_page_lists_every_check() -> None:
    page = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `(check_\w+)` \|", page, re.MULTILINE))
    assert listed == {name for name in vars(checks) if name.startswith("check_")}


def test_check_plugin_gives_each_failure_by_id(install) -> None:
    install("acme")
    errors = check_plugin("acme")
    assert {name.partition("::")[2] for name in errors} == set(FAILS)
    assert all(name.startswith("norm:acme/whole::") for name in errors)
    found = errors["norm:acme/whole::check_time_field_is_true"]
    assert found.startswith("declares time='frame', but Centred: frame t reads")


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_component_that_cannot_be_built_fails_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    # set, so that monkeypatch takes the module out of sys.modules again
    monkeypatch.setitem(sys.modules, "unbuilt", None)
    del sys.modules["unbuilt"]
    (tmp_path / "unbuilt.py").write_text(
        "import torch\n"
        "from speechkit import Component, hookimpl\n"
        "class Plain(torch.nn.Conv1d):\n"
        "    def __init__(self, channels, *row):\n"
        "        super().__init__(channels, channels, 3)\n"
        "def one(name, factory):\n"
        "    return Component(name=name, factory=factory, summary='-', formula='-')\n"
        "@hookimpl\n"
        "def speechkit_activations():\n"
        "    return [one('absent', 'torch.nn:Relu'), one('shy', lambda channels: 1 / 0)]\n"
        "@hookimpl\n"
        "def speechkit_mixers():\n"
        "    return [one('plain', Plain)]\n"
    )
    outcomes = list(run_checks(str(tmp_path / "unbuilt.py"), jobs=jobs))
    check = "::check_example_builds"
    assert [outcome.id.removesuffix(check) for outcome in outcomes] == [
        "activation:unbuilt/absent",
        "activation:unbuilt/shy",
        "mixer:unbuilt/plain",
    ]
    for outcome, said in zip(
        outcomes,
        ["cannot be loaded from 'torch.nn:Relu'", "division by zero", "expected a speechkit.nn."],
        strict=True,
    ):
        assert said in outcome.error


def test_a_component_declares_the_checks_that_it_is_exempt_from(install) -> None:
    install("expects", whole=dict.fromkeys(FAILS, "of the mean"))
    assert check_plugin("expects") == {}
    outcomes = list(run_checks("expects"))
    assert sum(outcome.expected == "of the mean" for outcome in outcomes) == len(FAILS)


def test_passing_a_check_that_it_is_exempt_from_is_a_failure(install) -> None:
    install("better", none={"check_metadata": "not yet"})
    found = check_plugin("better")["norm:better/none::check_metadata"]
    assert found == "passes, but is expected to fail: not yet"


def test_an_exemption_from_no_check_is_an_error(install) -> None:
    install("stale", none={"check_tim_field_is_true": "old"})
    with pytest.raises(PluginError, match="stale/none: there is no check 'check_tim_field_is_true"):
        checks_of("stale")


def test_only_some_components_or_checks(install) -> None:
    install("some")
    assert {c.entry.component.name for c in checks_of("some", ["none"])} == {"none"}
    (one,) = checks_of("some", ["norm:some/whole::check_metadata"])
    assert one.function.__name__ == "check_metadata"
    assert len(checks_of("some", ["check_metadata"])) == 2
    assert len(checks_of("some", ["check_metadata", "some/none"])) == 1 + len(
        checks_of("some", ["none"])
    )
    with pytest.raises(PluginError, match=r"no component or check 'nome'\. Did you mean 'none'"):
        checks_of("some", ["nome"])


def test_several_processes_find_the_same(
    install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("shared")
    # a new process starts with the path of the environment
    paths = [str(tmp_path), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    only = ["check_metadata", "check_time_field_is_true"]
    assert list(run_checks("shared", only, jobs=2)) == list(run_checks("shared", only))


def test_a_plugin_that_is_not_there(install) -> None:
    with pytest.raises(PluginError, match="not one of speechkit's own"):
        check_plugin("nosuch")


def test_each_check_is_a_test_and_an_exemption_a_strict_xfail(install) -> None:
    install("marked", whole={"check_time_field_is_true": "of the mean"})
    (names, parameters) = parametrize_checks("marked").args
    assert names == "check"
    assert [p.id for p in parameters] == [check.id for check in checks_of("marked")]
    (marked,) = (p for p in parameters if p.marks)
    assert marked.id == "norm:marked/whole::check_time_field_is_true"
    assert marked.marks[0].kwargs == {"reason": "of the mean", "strict": True}


def test_long_checks_of_all_but_the_first_of_a_kind_are_marked(install) -> None:
    install("long")
    (_, parameters) = parametrize_checks("long", long=pytest.mark.slow).args
    marked = {p.id for p in parameters if p.marks}
    assert "norm:long/none::check_long_inputs" in marked
    assert all(name.startswith("norm:long/none::") for name in marked)
    assert marked < {p.id for p in parameters if "/none::" in p.id}


def test_a_command_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "modules", sys.modules.copy())
    (tmp_path / "wordless.py").write_text(
        "import speechkit\n"
        "@speechkit.hookimpl\n"
        "def speechkit_commands(cli):\n"
        "    @cli.command()\n"
        "    def greet(name: str = 'you'): print(name)\n"
    )
    errors = check_plugin(str(tmp_path / "wordless.py"))
    assert errors == {
        "command:wordless/greet::check_command_explains_itself": "greet has no docstring to say "
        "what it does"
    }


def test_a_missing_package_skips_a_check() -> None:
    def lacks(entry: Entry) -> None:
        raise MissingExtraError("wings", "flight")

    component = Component(name="icarus", factory="torch.nn:Identity", summary="-", formula="x")
    check = Check(Entry("norm", component, "acme", "1"), lacks)
    with pytest.raises(SkipTest, match="this needs wings") as skipped:
        check()
    assert check.outcome() == Outcome(check.id, skipped=str(skipped.value))
