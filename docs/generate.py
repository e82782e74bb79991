"""Writes docs/components.md from the components of the core and of plugins/, and the README of each
bundled model from its card, the limits into SECURITY.md, and the table and the picture of
docs/mixers.json: `make docs`."""

import ast
import json
import tomllib
from itertools import pairwise
from math import log
from pathlib import Path
from statistics import mean
from typing import Any

from speechkit import limits
from speechkit.card import ModelCard, Score, bundled_models
from speechkit.hookspecs import KINDS
from speechkit.io.folders import find
from speechkit.ops.activation import formula_of
from speechkit.plugins import Entry, Registry

SECURITY = Path(__file__).parents[1] / "SECURITY.md"
LIMITS, END = "<!-- limits, by make docs -->", "<!-- end -->"
TARGET = Path(__file__).with_name("components.md")
MEASURED = Path(__file__).with_name("measured.json")
MIXERS = Path(__file__).with_name("mixers.json")
ROWS = "<!-- rows, by make docs -->"
IN_TREE = ",".join(
    plugin
    for path in sorted(Path(__file__).parents[1].glob("plugins/*/pyproject.toml"))
    for plugin in tomllib.loads(path.read_text("utf-8"))["project"]
    .get("entry-points", {})
    .get("speechkit", ())
)
"""The packages under plugins/ that offer components."""
HEAD = """# Components

The components that a config can name, by kind. Those of the package *core* need no plugin; for
others type `pip install speechkit-PACKAGE` ([plugins.md](plugins.md)). `make docs` writes this page
from the registry. `time` is the context of an output frame: its own *frame*, the past (*causal*), a
bounded future (*lookahead*) or the whole *utterance*, which does not stream. `exports` are the
export formats. The conformance kit checks both columns. `speechkit plugins show NAME` prints
everything that a component declares, and its parameters; [hooks.md](hooks.md) describes the
requirements of each kind.
"""
COSTS = """
µs is the time of one call on a tensor of 64 channels and 1000 frames in evaluation. `kept` are the
bytes stored for the backward pass, per element of the output. Measured on {date}, {processor},
torch {torch}, one thread, float32, with the parameters of the component's example (`make measure`).
"""


CARD = """# {name}

`{name}` {card.purpose}.

| | |
|---|---|
| domain | {card.domain} |
| data | {data} |
| licence of the weights | {card.licence} |
| command | {commands} |
| seed | {seeds} |

Scores, measured on {card.measured}:

| score | value | on | command |
|---|---|---|---|
{scores}

## Limits

{limits}

`make docs` writes this page from card.json beside it; `speechkit info {name}` prints it too, with
the model's size, work and latency.
"""


def with_limits(page: str) -> str:
    """SECURITY.md with the constants of speechkit/limits.py and what each of them bounds."""
    body = ast.parse(Path(limits.__file__).read_text(encoding="utf-8")).body
    rows = ["", "| Constant | Value | Bounds |", "|---|---|---|"]
    for constant, words in pairwise(body):
        if isinstance(constant, ast.Assign) and isinstance(words, ast.Expr):
            names = [one.id for one in ast.walk(constant.targets[0]) if isinstance(one, ast.Name)]
            values = " ".join(f"{getattr(limits, name):,}" for name in names)
            text = " ".join(ast.literal_eval(words.value).split())
            rows.append(f"| {' '.join(f'`{name}`' for name in names)} | {values} | {text} |")
    head, rest = page.split(LIMITS)
    return "\n".join([head + LIMITS, *rows, "", END + rest.split(END)[1]])


def pages() -> dict[Path, str]:
    """The text of each generated page."""
    cards = {
        find(name) / "README.md": model_page(name, card) for name, card in bundled_models().items()
    }
    security = with_limits(SECURITY.read_text(encoding="utf-8"))
    mixers = json.loads(MIXERS.read_text(encoding="utf-8"))
    measured = {
        MIXERS.with_suffix(".md"): with_rows(MIXERS.with_suffix(".md").read_text("utf-8"), mixers),
        MIXERS.with_suffix(".svg"): scatter(mixers["rows"]),
    }
    return {TARGET: page(), SECURITY: security, **measured, **cards}


def with_rows(page: str, mixers: dict[str, Any]) -> str:
    """docs/mixers.md with the measured rows, the best memory first."""
    about = mixers["about"]
    rows = [
        "",
        f"Costs measured on {about['date']}, {about['processor']}, torch {about['torch']}, one "
        "thread, float32.",
        "",
        "| row | RECALL | stream | training | kMAC/s | parameters | latency | engine |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(mixers["rows"].values(), key=lambda row: -mean(row["recall"])):
        seeds = " ".join(f"{auc:.2f}" for auc in row["recall"])
        cells = [
            f"`{' '.join(row['row'])}`" if row["row"] else "the plain row",
            f"**{mean(row['recall']):.2f}** ({seeds})",
            f"{row['stream']:.2f} ×",
            f"{row['training']:.2f} ×",
            f"{row['kmacs_per_s']:+,}",
            f"{row['parameters']:+,}",
            f"{row['latency_ms']:+} ms",
            row["engine"],
        ]
        rows.append(f"| {' | '.join(cells)} |")
    head, rest = page.split(ROWS)
    return "\n".join([head + ROWS, *rows, "", END + rest.split(END)[1]])


def scatter(rows: dict[str, Any]) -> str:
    """An SVG picture of RECALL against the time of a step, with a line from seed to seed."""
    width, height, left, bottom = 900, 560, 60, 50
    cheapest, dearest = 0.9, max(row["stream"] for row in rows.values())
    across = (width - left - 160) / log(dearest / cheapest)
    up = (height - bottom - 20) / 0.6

    def at(stream: float, auc: float) -> tuple[float, float]:
        return left + across * log(stream / cheapest), height - bottom - up * (auc - 0.4)

    style = (
        "text { font: 12px sans-serif; fill: #222 } .grid { stroke: #ddd } .seeds { stroke: #9ab }"
    )
    parts = []
    for tenth in range(4, 11):
        x, y = at(cheapest, tenth / 10)
        parts.append(f'<line class="grid" x1="{x}" y1="{y:.1f}" x2="{width - 20}" y2="{y:.1f}"/>')
        parts.append(f'<text x="28" y="{y + 4:.1f}">{tenth / 10:.1f}</text>')
    for times in (1, 1.5, 2, 3, 5, 10, 20, 50):
        if times > dearest:
            break
        x, y = at(times, 0.4)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{y}" x2="{x:.1f}" y2="20"/>')
        parts.append(f'<text x="{x - 8:.1f}" y="{y + 18}">{times:g} ×</text>')
    lowest: list[tuple[float, float]] = []
    for name, row in sorted(rows.items(), key=lambda item: -mean(item[1]["recall"])):
        x, y = at(row["stream"], mean(row["recall"]))
        (_, top), (_, foot) = (at(1, edge(row["recall"])) for edge in (max, min))
        parts.append(
            f'<line class="seeds" x1="{x:.1f}" y1="{top:.1f}" x2="{x:.1f}" y2="{foot:.1f}"/>'
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#4878a8"/>'
        )
        # a name below those that are already there
        near = [line for start, line in lowest if abs(start - x) < 110]
        line = max([y, *(other + 13 for other in near if other + 13 > y)])
        lowest.append((x, line))
        parts.append(f'<text x="{x + 8:.1f}" y="{line + 4:.1f}">{name}</text>')
    parts.append(f'<text x="{left}" y="14">RECALL: AUC, mean and range of three seeds</text>')
    parts.append(
        f'<text x="{width - 330}" y="{height - 8}">a step of 20 ms; 1 is the plain net</text>'
    )
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}">\n<style>{style}</style>\n'
        f'<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


def model_page(name: str, card: ModelCard) -> str:
    """The page of a bundled model."""
    return CARD.format(
        name=name,
        card=card,
        data="; ".join(card.data),
        commands="; ".join(card.commands),
        seeds=", ".join(map(str, card.seeds)),
        scores="\n".join(map(_score, card.scores)),
        limits="\n".join(f"- {limit}" for limit in card.limits),
    )


def _score(score: Score) -> str:
    value = f"{score.value:g} {score.unit}".strip()
    return f"| {score.name} | {value} | {score.on} | {score.command and f'`{score.command}`'} |"


def page() -> str:
    """The text of docs/components.md; plugins that are installed from elsewhere are left out."""
    registry = Registry({"SPEECHKIT_PLUGINS": IN_TREE})
    costs = json.loads(MEASURED.read_text(encoding="utf-8"))
    parts = [HEAD, COSTS.format(**costs["about"])]
    for kind in KINDS:
        parts.append(f"\n## {kind}\n\n")
        entries = registry.components(kind)
        parts.append(_table(entries, costs["figures"]) if entries else "None.\n")
    return "".join(parts)


def _table(entries: list[Entry], figures: dict[str, dict[str, float]]) -> str:
    names = [f"{entry.kind}:{entry.qualified_name}" for entry in entries]
    costs = any(name in figures for name in names)
    head = ["name", "package", "time", "exports", "summary", "formula", "reference"]
    head += ["µs", "kept"] if costs else []
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, entry in zip(names, entries, strict=True):
        component = entry.component
        cells = [
            f"`{component.name}`",
            entry.plugin,
            component.time,
            ", ".join(sorted(component.exports - {"torch"})),
            component.summary,
            f"`{formula}`" if (formula := formula_of(entry)) else "",
            component.paper,
        ]
        if costs:
            figure = figures.get(name, {})
            cells += [f"{figure[key]:g}" if figure else "" for key in ("us", "saved")]
        escaped = [cell.replace("|", r"\|") for cell in cells]
        rows.append(f"| {' | '.join(escaped)} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
