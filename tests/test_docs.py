"""The documentation says what the code does: its blocks run and its lists are complete."""

import importlib.util
import inspect
import re
import tomllib
from pathlib import Path

import pytest
import typer

import speechkit as sk
from speechkit import hookspecs
from speechkit.plugins import ENTRY_POINT_GROUP, Registry, using

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HOOKS = {name: f for name, f in vars(hookspecs).items() if name.startswith("speechkit_")}


def python_blocks(page: Path) -> list[tuple[int, str]]:
    """Each Python block of a page with the number of its first line."""
    text = page.read_text(encoding="utf-8")
    return [
        (text.count("\n", 0, match.start(2)), match[2])
        for match in FENCE.finditer(text)
        if match[1] == "python"
    ]


@pytest.fixture
def own_registry():
    """What a page adds to the process's registry is gone afterwards."""
    with using(Registry()):
        yield


@pytest.mark.usefixtures("own_registry")
@pytest.mark.parametrize("page", [p for p in PAGES if python_blocks(p)], ids=lambda p: p.name)
def test_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": page.stem, "__file__": str(page)}
    for line, code in python_blocks(page):
        # blank lines in front, so that a traceback names the page's own line
        exec(compile("\n" * line + code, str(page), "exec"), namespace)


def test_every_fence_names_its_language():
    for page in PAGES:
        for match in FENCE.finditer(page.read_text(encoding="utf-8")):
            assert match[1] in {"python", "sh", "text", "toml", "json"}, f"{page.name}: {match[0]}"


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


def test_only_public_names_are_used():
    assert set(re.findall(r"\bsk\.([A-Za-z]\w*)", TEXT)) <= set(sk.__all__)


def test_components_page_is_up_to_date():
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
