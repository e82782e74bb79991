"""How checks are named, run and expected to fail, and that the built-in components pass them."""

import re
import sys
from pathlib import Path
from unittest import SkipTest

import pytest

from speechkit.component import Component
from speechkit.errors import MissingExtraError, PluginError
from speechkit.plugins import CORE, Entry
from speechkit.testing import Check, check_plugin, checks, checks_of, parametrize_checks

PLUGIN = """
import torch
from speechkit import Component, hookimpl

{more}

class Centred(torch.nn.Module):
    def forward(self, x):
        return x - x.mean(2, keepdim=True)

@hookimpl
def speechkit_norms():
    return [
        Component(name="whole", factory=lambda channels: Centred(), summary="-", formula="-"),
        Component(name="none", factory="torch.nn:Identity", summary="-", formula="x"),
    ]
"""
FAILS = (
    "norm:{}/whole::check_padding_is_inert",
    "norm:{}/whole::check_stream_equals_offline",
    "norm:{}/whole::check_time_field_is_true",
)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`install(name, more)` puts a plugin on the path, as pip would."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, more: str = "") -> list[str]:
        module = f"{name}_to_check"
        # set, so that monkeypatch takes the module out of sys.modules again
        monkeypatch.setitem(sys.modules, module, None)
        del sys.modules[module]
        (tmp_path / f"{module}.py").write_text(PLUGIN.format(more=more))
        info = tmp_path / f"speechkit_{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[speechkit]\n{name} = {module}\n")
        return [check.format(name) for check in FAILS]

    return write


@parametrize_checks(CORE)
def test_built_in(check: Check) -> None:
    check()


def test_the_plugins_page_lists_every_check() -> None:
    page = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `(check_\w+)` \|", page, re.MULTILINE))
    assert listed == {name for name in vars(checks) if name.startswith("check_")}


def test_check_plugin_gives_each_failure_by_id(install) -> None:
    fails = install("acme")
    errors = check_plugin("acme")
    assert sorted(errors) == fails
    assert errors[fails[2]].startswith("declares time='frame', but Centred: frame t reads")
    checked = {check.id for check in checks_of("acme")}
    assert "norm:acme/none::check_metadata" in checked
    assert all(name.startswith("norm:acme/") for name in checked)


def test_a_plugin_declares_the_failures_that_it_expects(install) -> None:
    fails = [check.format("expects") for check in FAILS]
    assert install("expects", f"EXPECTED_FAILURES = dict.fromkeys({fails}, 'of the mean')") == fails
    assert check_plugin("expects") == {}
    assert sum(check.expected == "of the mean" for check in checks_of("expects")) == 3


def test_an_expected_failure_that_passes_is_a_failure(install) -> None:
    passes = "norm:better/none::check_metadata"
    install("better", f"EXPECTED_FAILURES = {{{passes!r}: 'not yet'}}")
    assert check_plugin("better")[passes] == "passes, but is expected to fail: not yet"


def test_an_expected_failure_of_no_check_is_an_error(install) -> None:
    install("stale", "EXPECTED_FAILURES = {'norm:stale/none::check_tim_field_is_true': 'old'}")
    with pytest.raises(
        PluginError, match="Did you mean 'norm:stale/none::check_time_field_is_true"
    ):
        checks_of("stale")
    with pytest.raises(PluginError, match=r"Known: norm:stale/none, norm:stale/whole$"):
        checks_of("stale", {"norm:stale/gone::check_metadata": "it is gone"})


def test_a_plugin_that_is_not_there(install) -> None:
    with pytest.raises(PluginError, match="not one of speechkit's own"):
        check_plugin("nosuch")


def test_each_check_is_a_test_and_an_expected_failure_a_strict_xfail(install) -> None:
    fails = install("marked")
    decorated = parametrize_checks("marked", expected_failures={fails[0]: "of the mean"})
    (names, parameters) = decorated.args
    assert names == "check"
    assert [p.id for p in parameters] == [check.id for check in checks_of("marked")]
    (marked,) = (p for p in parameters if p.marks)
    assert marked.id == fails[0]
    assert marked.marks[0].kwargs == {"reason": "of the mean", "strict": True}


def test_a_missing_package_skips_a_check() -> None:
    def lacks(entry: Entry) -> None:
        raise MissingExtraError("wings", "flight")

    component = Component(name="icarus", factory="torch.nn:Identity", summary="-", formula="x")
    check = Check(Entry("norm", component, "acme", "1"), lacks)
    with pytest.raises(SkipTest, match="this needs wings"):
        check()
    assert check.error() is None
