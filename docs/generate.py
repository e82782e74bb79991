"""Writes docs/components.md from the built-in components: `make docs`."""

from pathlib import Path

from speechkit.hookspecs import KINDS
from speechkit.plugins import Entry, Registry

TARGET = Path(__file__).with_name("components.md")
HEAD = """# Components

What a config may name without any plugin, by kind. `make docs` writes this page from the
registry. `time` is what an output frame may read: its own *frame*, the past (*causal*), a bounded
future (*lookahead*) or the whole *utterance*. `speechkit plugins show NAME` prints everything a
component declares and the parameters it takes; [hooks.md](hooks.md) says what each kind must do.
"""


def page() -> str:
    """The page's text; installed plugins are left out."""
    registry = Registry({"SPEECHKIT_PLUGINS": ""})
    parts = [HEAD]
    for kind in KINDS:
        parts.append(f"\n## {kind}\n\n")
        entries = registry.components(kind)
        parts.append(_table(entries) if entries else "None in the core.\n")
    return "".join(parts)


def _table(entries: list[Entry]) -> str:
    rows = ["| name | time | summary | formula | reference |", "|---|---|---|---|---|"]
    for component in (entry.component for entry in entries):
        cells = (
            f"`{component.name}`",
            component.time,
            component.summary,
            f"`{component.formula}`" if component.formula else "",
            component.paper,
        )
        escaped = [cell.replace("|", r"\|") for cell in cells]
        rows.append(f"| {' | '.join(escaped)} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
