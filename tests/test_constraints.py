"""The pinned versions and their hashes agree with each other and cover what is asked for."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def pins(name: str) -> dict[str, str]:
    """The pinned version of each distribution, without a build such as +cpu."""
    text = (ROOT / name).read_text(encoding="utf-8")
    found = re.findall(r"^([\w.-]+)==([\w.]+)", text, re.MULTILINE)
    return {canonical(name): version for name, version in found}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_hashed_versions_are_the_pinned_ones() -> None:
    pinned = pins("constraints.txt")
    hashed = pins("constraints-hashed.txt")
    assert hashed == {name: pinned[name] for name in hashed}, "run `make hashes`"


def test_every_hashed_version_has_a_hash() -> None:
    lines = (ROOT / "constraints-hashed.txt").read_text(encoding="utf-8").splitlines()
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        if "==" in line:
            assert re.fullmatch(r" +--hash=sha256:[0-9a-f]{64}( \\)?", after), line


def test_everything_that_is_asked_for_is_hashed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = re.search(r"^HASHED := (.*)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    asked = list(project["dependencies"])
    # most of them include the extra torch, by the name of this distribution
    for extra in ("torch", *extras[1].split()):
        asked += project["optional-dependencies"][extra]
    asked = [requirement for requirement in asked if "[torch]" not in requirement]
    names = {canonical(re.match(r"[\w.-]+", requirement)[0]) for requirement in asked}
    assert names <= set(pins("constraints-hashed.txt")), "run `make hashes`"
