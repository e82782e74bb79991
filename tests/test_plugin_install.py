"""Plugins installed by pip into a fresh environment are there by name."""

import json
import os
import re
import site
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "speechkit-swish20"
version = "0.7.1"
[project.entry-points.speechkit]
swish20 = "speechkit_swish20"
"""

MODULE = """
from torch import nn
from speechkit import Component, hookimpl

class Swish(nn.Module):
    def __init__(self, channels, beta=1.0):
        super().__init__()
        self.beta = beta
    def forward(self, x):
        return x * (self.beta * x).sigmoid()

@hookimpl
def speechkit_activations():
    return [Component(name="swish20", factory=Swish, summary="Swish", formula="x*sigmoid(beta*x)")]
"""

BUILD = """
import torch, speechkit as sk
net = sk.MatchboxNet(labels=("yes", "no"), activation="swish20:beta=2")
model = sk.build(net).eval()
swishes = [m for m in model.modules() if type(m).__name__ == "Swish"]
assert swishes and all(s.beta == 2 for s in swishes)
assert torch.isfinite(model(torch.zeros(1, 16000)).scores).all()
sk.save(model, "model")
assert sk.load("model").config == net
"""


def speechkit(*arguments: str) -> tuple[str, str]:
    """What Python is to be given to run that command."""
    return "-c", f"from speechkit.cli.main import main; main({list(arguments)})"


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """The Python of a fresh environment that also sees the packages of this one."""
    venv.create(tmp_path / "venv", with_pip=False)
    python = next((tmp_path / "venv").glob("[bS]*/python*"))
    code = "import site; print(site.getsitepackages()[0])"
    packages = subprocess.check_output([python, "-c", code], text=True).strip()
    outer = [path for path in site.getsitepackages() if Path(path).is_dir()]
    lines = [f"import site; site.addsitedir({path!r})\n" for path in outer]
    (Path(packages) / "outer.pth").write_text("".join(lines))
    return python


Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`run(*command)` gives what a process says, in an empty folder and with every plugin."""
    everyone = {k: v for k, v in os.environ.items() if k != "SPEECHKIT_PLUGINS"}

    def run(*command: str | Path) -> str:
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=everyone)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture
def install(python: Path, run: Run) -> Callable[[Path], None]:
    """`install(folder)` is pip in the fresh environment, without the network."""
    pip = sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python
    return lambda folder: print(
        run(*pip, "install", "--no-index", "--no-deps", "--no-build-isolation", folder)
    )


def test_a_plugin_of_twenty_lines_installed_by_pip_names_an_activation(
    python: Path, tmp_path: Path, run: Run, install: Callable[[Path], None]
) -> None:
    plugin = tmp_path / "plugin"
    plugin.mkdir()
    (plugin / "pyproject.toml").write_text(PYPROJECT)
    (plugin / "speechkit_swish20.py").write_text(MODULE)
    assert len(MODULE.strip().splitlines()) < 20
    install(plugin)
    run(python, "-c", BUILD)
    stored = json.loads((tmp_path / "model" / "config.json").read_text())
    assert stored["plugins"] == {
        "swish20": {"version": "0.7.1", "distribution": "speechkit-swish20"}
    }
    listed = run(python, *speechkit("plugins", "list", "--kind", "activation", "--json"))
    rows = [json.loads(line) for line in listed.splitlines()]
    (ours,) = (row for row in rows if row["name"] == "swish20")
    assert (ours["plugin"], ours["version"], ours["kind"]) == ("swish20", "0.7.1", "activation")


def test_a_new_plugin_installs_is_listed_and_passes_its_tests(
    python: Path, tmp_path: Path, run: Run, install: Callable[[Path], None]
) -> None:
    printed = run(python, *speechkit("plugins", "new", "speechkit-winged-layers"))
    assert "plugin winged_layers in speechkit-winged-layers" in printed
    plugin = tmp_path / "speechkit-winged-layers"
    install(plugin)
    listed = run(python, *speechkit("plugins", "list", "--json"))
    rows = map(json.loads, listed.splitlines())
    ours = {(r["kind"], r["name"]) for r in rows if r["plugin"] == "winged_layers"}
    assert ours == {("activation", "squareplus"), ("norm", "mean_abs")}
    printed = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", plugin)
    assert re.search(r"^\d\d passed in", printed, re.MULTILINE), printed
    assert not any("acme" in f.read_text() for f in plugin.rglob("*.*") if f.suffix != ".pyc")
