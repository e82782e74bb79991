"""What `import speechkit as sk` gives, and what it costs."""

import ast
import importlib.metadata
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import speechkit as sk
from speechkit import errors

ROOT = Path(__file__).parents[1]
PROJECTS = [ROOT / "pyproject.toml", *sorted(ROOT.glob("plugins/*/pyproject.toml"))]
USER = """\
import numpy as np
import speechkit as sk
model = sk.load("vad")
session = sk.stream(model, sample_rate=8000)
reveal_type(session)
for event in session.feed(np.zeros(800, np.float32)):
    match event:
        case sk.events.SpeechStart(at_s=at_s):
            reveal_type(at_s)
        case sk.events.Final(words=words):
            reveal_type(words)
reveal_type(model)
reveal_type(sk.detect(model, "call.wav"))
reveal_type(sk.__version__)
"""
REVEALED = [
    "speechkit.streaming.session.Stream | speechkit.streaming.windowed.WindowedStream",
    "float",
    "tuple[speechkit.events.Word, ...]",
    "speechkit.models.model.Model",
    "list[speechkit.predictions.Segment]",
    "str",
]


def test_public_names_are_sorted_and_unique():
    assert sk.__all__ == sorted(set(sk.__all__))
    assert dir(sk) == sk.__all__


@pytest.mark.parametrize("name", sk.__all__)
def test_every_public_name_resolves(name):
    assert getattr(sk, name) is getattr(sk, name)


def test_type_checkers_read_the_names_that_python_loads():
    tree = ast.parse(Path(sk.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    found = {}
    for node in block.body:
        if isinstance(node, ast.ImportFrom):
            # without `as` the name is not exported under --strict
            assert all(alias.asname == alias.name for alias in node.names)
            found |= {alias.name: node.module for alias in node.names}
    assert found == {**sk._HOME, **dict.fromkeys(sk._MODULES, "speechkit")}


@pytest.mark.slow
def test_a_users_lines_have_types(tmp_path):
    (tmp_path / "user.py").write_text(USER)
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent"]
    command += [f"--cache-dir={ROOT / '.mypy_cache' / 'user'}", "user.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env={"MYPYPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert "Success" in done.stdout, done.stdout
    assert re.findall(r'Revealed type is "(.*)"', done.stdout) == REVEALED
    (tmp_path / "user.py").write_text("import speechkit as sk\nsk.biuld()\n")
    done = subprocess.run(
        command, cwd=tmp_path, env={"MYPYPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert 'Module has no attribute "biuld"' in done.stdout


@pytest.mark.parametrize("project", PROJECTS, ids=lambda path: path.parent.name)
def test_every_package_that_ships_says_that_it_is_typed(project):
    stored = tomllib.loads(project.read_text(encoding="utf-8"))
    for package in stored["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        assert (project.parent / package / "py.typed").is_file()


@pytest.mark.parametrize("project", PROJECTS, ids=lambda path: path.parent.name)
def test_every_package_that_ships_is_type_checked(project):
    checked = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]
    stored = tomllib.loads(project.read_text(encoding="utf-8"))
    assert checked["strict"]
    for package in stored["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        path = (project.parent / package).relative_to(ROOT)
        assert any(path.match(pattern) for pattern in checked["files"]), path


def test_every_plugin_is_held_to_the_import_contracts():
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    contracts = {contract["name"]: contract for contract in tools["importlinter"]["contracts"]}
    lists = {
        "root packages": tools["importlinter"]["root_packages"],
        "core": contracts["the core knows no plugin"]["forbidden_modules"],
        "plugins": contracts["plugins do not know each other"]["modules"],
    }
    for project in PROJECTS[1:]:
        stored = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        for module in stored.get("entry-points", {}).get("speechkit", {}).values():
            assert [name for name, known in lists.items() if module not in known] == [], module


def test_the_version_is_that_of_the_distribution():
    assert sk.__version__ == importlib.metadata.version("speechkit-core")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'biuld'"):
        sk.biuld  # noqa: B018


@pytest.mark.parametrize(
    "module", ["speechkit", "speechkit.errors", "speechkit.hookspecs", "speechkit.cli.main"]
)
def test_importing_it_imports_no_torch(module):
    code = f"import sys, {module}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_error_tree_in_the_docstring_is_the_class_tree():
    drawn = dict.fromkeys(re.findall(r"\b(\w+Error)\b", errors.__doc__))
    base, *rest = drawn
    classes = dict(inspect.getmembers(errors, inspect.isclass))
    assert set(drawn) == set(classes)
    assert classes[base].__bases__ == (Exception,)
    # the drawing has one level: each branch hangs on the base
    assert re.findall(r"^ +[├└]── (\w+)", errors.__doc__, re.MULTILINE) == rest
    for name in rest:
        # a built-in error may be a base too
        own = [kind for kind in classes[name].__bases__ if kind.__module__ != "builtins"]
        assert own == [classes[base]]
