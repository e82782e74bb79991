"""The documentation says what the code does: its blocks run and its lists are complete."""

import importlib.util
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer

import speechkit as sk
from speechkit import hookspecs
from speechkit.plugins import ENTRY_POINT_GROUP, Registry, using

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
REFERENCE = ROOT / "docs" / "reference"
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LANGUAGES = {"python", "sh", "text", "toml", "json", "js", "html"}
HOOKS = {name: f for name, f in vars(hookspecs).items() if name.startswith("speechkit_")}


def python_blocks(page: Path) -> list[tuple[int, str]]:
    """Each Python block of a page with the number of its first line."""
    text = page.read_text(encoding="utf-8")
    return [
        (text.count("\n", 0, match.start(2)), match[2])
        for match in FENCE.finditer(text)
        if match[1] == "python"
    ]


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture
def own_registry():
    """What a page adds to the process's registry is gone afterwards."""
    with using(Registry()):
        yield


@pytest.mark.usefixtures("own_registry")
# tests/test_cookbook.py runs the cookbook, with its commands
@pytest.mark.parametrize(
    "page",
    [p for p in PAGES if python_blocks(p) and p.parent.name != "cookbook"],
    ids=page_name,
)
def test_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # pages load files of this name, and so do other tests
    monkeypatch.setitem(sys.modules, "acme", None)
    namespace = {"__name__": page.stem, "__file__": str(page)}
    for line, code in python_blocks(page):
        # blank lines in front, so that a traceback names the page's own line
        exec(compile("\n" * line + code, str(page), "exec"), namespace)


def test_every_fence_names_its_language():
    for page in PAGES:
        for match in FENCE.finditer(page.read_text(encoding="utf-8")):
            assert match[1] in {"python", "sh", "text", "toml", "json", "js", "html"}, (
                f"{page.name}: {match[0]}"
            )


@pytest.mark.parametrize("name", sorted(HOOKS))
def test_hooks_page_lists_each_hook_with_its_arguments(name):
    page = (ROOT / "docs" / "hooks.md").read_text(encoding="utf-8")
    arguments = ", ".join(inspect.signature(HOOKS[name]).parameters)
    assert f"`{name}({arguments})`" in page


@pytest.mark.parametrize("kind", sorted(hookspecs.KINDS))
def test_hooks_page_states_each_kinds_factory(kind):
    page = (ROOT / "docs" / "hooks.md").read_text(encoding="utf-8")
    row = next(x for x in page.splitlines() if f"`{hookspecs.KINDS[kind]}()` | {kind} |" in x)
    docstring = inspect.getdoc(HOOKS[hookspecs.KINDS[kind]])
    factory = re.match(r"`(factory\(.*?\))`", docstring)[1]
    assert f"`{factory}`" in row


def test_hooks_page_lists_no_other_hook():
    page = (ROOT / "docs" / "hooks.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`(speechkit_\w+)\(", page)) == set(HOOKS)


@pytest.mark.parametrize("name", sk.__all__)
def test_every_public_name_is_documented(name):
    assert re.search(rf"\bsk\.{name}\b", TEXT)


def names_of(page: Path) -> list[str]:
    """The public names of the module that a page of the reference is about."""
    module = sk if page.stem == "speechkit" else importlib.import_module(f"speechkit.{page.stem}")
    own = [n for n, x in vars(module).items() if getattr(x, "__module__", "") == module.__name__]
    names = getattr(module, "__all__", None) or [n for n in own if n[0] != "_"]
    return [n for n in names if not inspect.ismodule(getattr(module, n))]


@pytest.mark.parametrize("page", sorted(REFERENCE.glob("*.md")), ids=page_name)
def test_reference_has_each_public_name_and_an_example(page):
    text = page.read_text(encoding="utf-8")
    examples = "\n".join(code for _, code in python_blocks(page))
    pages = "".join(other.read_text(encoding="utf-8") for other in REFERENCE.glob("*.md"))
    for name in names_of(page):
        # what is a public name of speechkit itself is on the page of that
        assert re.search(rf"^::: speechkit\.(\w+\.)?{name}$", pages, re.MULTILINE), name
        if f"::: speechkit.{page.stem}.{name}\n" in text:
            assert re.search(rf"\b{name}\b", examples), name


def test_reference_has_each_public_module():
    modules = {name for name in sk.__all__ if inspect.ismodule(getattr(sk, name))}
    assert modules <= {page.stem for page in REFERENCE.glob("*.md")}


def test_site_has_no_broken_link_and_loads_nothing_from_other_hosts(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = "".join(page.read_text(encoding="utf-8") for page in tmp_path.rglob("*.html"))
    loaded = re.findall(r"<(?:script|img|link|iframe)[^>]*(?:src|href)=\"?(https?:[^\" >]*)", pages)
    assert loaded == []


def test_only_public_names_are_used():
    assert set(re.findall(r"\bsk\.([A-Za-z]\w*)", TEXT)) <= set(sk.__all__)


def test_components_page_is_up_to_date(monkeypatch):
    # as for `python docs/generate.py`
    monkeypatch.syspath_prepend(ROOT / "docs")
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for path, text in generate.pages().items():
        assert path.read_text(encoding="utf-8") == text, f"run `make docs`: {path}"


def test_every_command_in_the_docs_exists():
    from speechkit.cli.main import app

    known = set(typer.main.get_group(app).commands)
    shell = "\n".join(match[2] for match in FENCE.finditer(TEXT) if match[1] == "sh")
    used = set(re.findall(r"^(?:\.venv/bin/)?speechkit ([a-z]\w*)", shell, re.MULTILINE))
    used |= set(re.findall(r"`speechkit ([a-z]\w*)", TEXT))
    assert used == known


def test_every_flag_of_train_is_in_the_recipes_page():
    from speechkit.cli.main import app

    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    options = typer.main.get_group(app).commands["train"].params
    for flag in [flag for option in options for flag in option.opts if flag.startswith("--")]:
        assert f"`{flag}`" in page or f"`{flag} " in page, flag


def test_links_between_pages_lead_somewhere():
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_plugins_page_names_the_entry_point_group():
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    assert f"[project.entry-points.{ENTRY_POINT_GROUP}]" in page


def test_contributing_draws_the_import_contract():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = config["tool"]["importlinter"]["contracts"][0]["layers"]
    drawn = "\n".join("   ".join(layer.replace("speechkit.", "").split(" | ")) for layer in layers)
    assert drawn in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
