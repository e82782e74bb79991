"""Writes docs/components.md from the components of the core and of plugins/, docs/models.md, the
README of each bundled model and the table in README.md from the models' cards and plans, the limits
into SECURITY.md, the table and the picture of docs/mixers.json, and the pictures that modules of
docs/pictures draw: `make docs`."""

import ast
import json
import tomllib
from itertools import pairwise
from math import log
from pathlib import Path
from statistics import mean
from typing import Any

from pictures import contract, house, speed

from speechkit import limits
from speechkit.card import ModelCard, bundled_models
from speechkit.errors import CheckpointError
from speechkit.hookspecs import KINDS
from speechkit.io.folders import PLAN, WEIGHTS, find
from speechkit.ops.activation import formula_of
from speechkit.plans.about import Profile
from speechkit.plans.source import as_plan
from speechkit.plugins import Entry, Registry

README = Path(__file__).parents[1] / "README.md"
MODELS = Path(__file__).with_name("models.md")
TABLE = "<!-- models, by make docs -->"
SECURITY = Path(__file__).parents[1] / "SECURITY.md"
LIMITS, END = "<!-- limits, by make docs -->", "<!-- end -->"
TARGET = Path(__file__).with_name("components.md")
MEASURED = Path(__file__).with_name("measured.json")
MIXERS = Path(__file__).with_name("mixers.json")
PICTURES = Path(__file__).with_name("pictures")
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
MODELS_HEAD = """# Bundled models

Each ships with the package as a plan, which runs without torch, and as weights for torch. `make
docs` writes this page from each model's `card.json` and plan. `speechkit info NAME` prints the card
too, and the model's work per second. [pull.md](pull.md) lists the models that `speechkit pull`
gets.

The size in the table is that of the plan. The look-ahead is the sound after a frame that the scores
of the frame depend on, the front end's window included. The latency is how late the scores of a
frame come in a stream, in whole frames ([streaming.md](streaming.md#latency)). The main score is
the first in the card. *CI* is a confidence interval; where there is none, the card has none.
"""
CARD = """
`{name}` {card.purpose}.

{facts}
Scores, measured on {card.measured}:

{scores}
Limits:

{limits}
"""
CARD_FOOT = """
`make docs` writes this page from card.json and the plan beside it; `speechkit info {name}` prints
the card too, with the model's work.
"""
TASKS = {
    "transcribe": "speech recognition",
    "classify": "keyword spotting",
    "detect": "voice activity detection",
}
"""The task of a model by its verb; one with another verb is named by that."""


def with_limits(page: str) -> str:
    """SECURITY.md with the constants of speechkit/limits.py and what each of them bounds."""
    body = ast.parse(Path(limits.__file__).read_text(encoding="utf-8")).body
    rows = ["| Constant | Value | Bounds |", "|---|---|---|"]
    for constant, words in pairwise(body):
        if isinstance(constant, ast.Assign) and isinstance(words, ast.Expr):
            names = [one.id for one in ast.walk(constant.targets[0]) if isinstance(one, ast.Name)]
            values = " ".join(f"{getattr(limits, name):,}" for name in names)
            text = " ".join(ast.literal_eval(words.value).split())
            rows.append(f"| {' '.join(f'`{name}`' for name in names)} | {values} | {text} |")
    return with_lines(page, LIMITS, rows)


def with_lines(page: str, start: str, lines: list[str]) -> str:
    """A page with other lines between the comments `start` and `END`."""
    head, rest = page.split(start)
    return "\n".join([head + start, "", *lines, "", END + rest.split(END, 1)[1]])


def pages() -> dict[Path, str]:
    """The text of each generated page."""
    bundled = bundled_models()
    sections = {name: model_section(name, card) for name, card in bundled.items()}
    foot = {name: CARD_FOOT.format(name=name) for name in bundled}
    cards = {
        find(name) / "README.md": f"# {name}\n{section}{foot[name]}"
        for name, section in sections.items()
    }
    table = model_table(bundled, link="docs/models.md")
    cards[README] = with_lines(README.read_text("utf-8"), TABLE, table.splitlines())
    chapters = [f"\n## {name}\n{section}" for name, section in sections.items()]
    cards[MODELS] = "".join([MODELS_HEAD, "\n", model_table(bundled), *chapters])
    security = with_limits(SECURITY.read_text(encoding="utf-8"))
    mixers = json.loads(MIXERS.read_text(encoding="utf-8"))
    measured = {
        MIXERS.with_suffix(".md"): with_rows(MIXERS.with_suffix(".md").read_text("utf-8"), mixers),
        MIXERS.with_suffix(".svg"): panels(mixers["rows"]),
    }
    drawn = {"contract": contract.draw(), "house": house.draw(), "speed": speed.draw()}
    pictures = {PICTURES / f"{name}.svg": svg for name, svg in drawn.items()}
    return {TARGET: page(), SECURITY: security, **measured, **cards, **pictures}


def with_rows(page: str, mixers: dict[str, Any]) -> str:
    """docs/mixers.md with the measured rows, the best memory first."""
    about = mixers["about"]
    rows = [
        f"Costs measured on {about['date']}, {about['processor']}, torch {about['torch']}, one "
        "thread, float32.",
        "",
        "| row | RECALL | stream | training | kMAC/s | parameters | latency | engine |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(mixers["rows"].values(), key=lambda row: -mean(row["recall"] or [0])):
        seeds = " ".join(f"{auc:.2f}" for auc in row["recall"])
        steps = f", {row['steps']} steps" if "steps" in row else ""
        cells = [
            f"`{' '.join(row['row'])}`" if row["row"] else "the plain row",
            f"**{mean(row['recall']):.2f}** ({seeds}{steps})" if row["recall"] else "–",
            f"{row['stream']:.2f} ×",
            f"{row['training']:.2f} ×",
            f"{row['kmacs_per_s']:+,}",
            f"{row['parameters']:+,}",
            f"{row['latency_ms']:+} ms",
            row["engine"],
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return with_lines(page, ROWS, rows)


def panels(rows: dict[str, Any]) -> str:
    """An SVG picture of RECALL, with a line from seed to seed, and of the time of a step."""
    shown = sorted(
        ((name, row) for name, row in rows.items() if row["recall"]), key=lambda r: r[1]["stream"]
    )
    width, top, pitch = 900, 50, 20
    foot = top + pitch * len(shown)
    dearest = max(row["stream"] for _, row in shown)

    def at_auc(auc: float) -> float:
        return 210 + 300 * (auc - 0.4) / 0.6

    def at_times(times: float) -> float:
        return 570 + 290 * log(times / 0.9) / log(dearest / 0.9)

    style = (
        "text { font: 12px sans-serif; fill: #222 } .grid { stroke: #ddd } .seeds { stroke: #9ab } "
        "circle { fill: #4878a8 }"
    )
    parts = [
        f'<text x="{at_auc(0.4):.0f}" y="18">memory: RECALL, mean and range of the seeds</text>',
        f'<text x="{at_times(0.9):.0f}" y="18">cost: a step of 20 ms, 1 is the plain net</text>',
    ]
    marks = [(at_auc(tenth / 10), f"{tenth / 10:.1f}") for tenth in range(4, 11)]
    marks += [(at_times(t), f"{t:g} ×") for t in (1, 1.5, 2, 3, 5, 10, 20) if t <= dearest]
    for x, text in marks:
        parts.append(
            f'<line class="grid" x1="{x:.1f}" y1="{top - 8}" x2="{x:.1f}" y2="{foot - 8}"/>'
            f'<text x="{x:.1f}" y="{top - 14}" text-anchor="middle">{text}</text>'
        )
    for number, (name, row) in enumerate(shown):
        y, seeds = top + pitch * number, row["recall"]
        parts.append(
            f'<text x="12" y="{y + 4}">{name}</text>'
            f'<line class="seeds" x1="{at_auc(min(seeds)):.1f}" y1="{y}" '
            f'x2="{at_auc(max(seeds)):.1f}" y2="{y}"/>'
            f'<circle cx="{at_auc(mean(seeds)):.1f}" cy="{y}" r="4"/>'
            f'<circle cx="{at_times(row["stream"]):.1f}" cy="{y}" r="4"/>'
        )
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{foot}" '
        f'viewBox="0 0 {width} {foot}">\n<style>{style}</style>\n'
        f'<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


def model_table(bundled: dict[str, ModelCard], link: str = "") -> str:
    """The bundled models in one table; `link` is the page with a heading for each."""
    rows = [["model", "task", "size", "look-ahead", "main score", "measured on", "licence"]]
    for name, card in bundled.items():
        task, profile = _facts(name)
        size = f"{(find(name) / PLAN).stat().st_size / 1e6:.1f} MB"
        main = card.scores[0]
        score = f"{main.name} {main.figure}"
        shown, lookahead = f"[{name}]({link}#{name})", _ms(profile.lookahead_s, "no bound")
        rows.append([shown, task, size, lookahead, score, main.on, card.licence])
    return _markdown(rows)


def model_section(name: str, card: ModelCard) -> str:
    """What the card and the plan of a bundled model tell."""
    task, profile = _facts(name)
    plan, weights = ((find(name) / file).stat().st_size for file in (PLAN, WEIGHTS))
    facts = [
        ["", ""],
        ["task", task],
        ["size", f"plan {plan:,} bytes, weights {weights:,} bytes"],
        ["parameters", f"{profile.parameters:,}"],
        ["look-ahead, front end included", _ms(profile.lookahead_s, "no bound")],
        ["latency in a stream", _ms(profile.latency_s, "does not stream")],
        ["domain", card.domain],
        ["data", "; ".join(card.data)],
        ["licence of the weights", card.licence],
        ["commands of training", "; ".join(card.commands)],
        ["seed", ", ".join(map(str, card.seeds))],
    ]
    scores = [["score", "value", "on", "command"]]
    for score in card.scores:
        scores.append([score.name, score.figure, score.on, score.command and f"`{score.command}`"])
    return CARD.format(
        name=name,
        card=card,
        facts=_markdown(facts),
        scores=_markdown(scores),
        limits="\n".join(f"- {limit}" for limit in card.limits),
    )


def _facts(name: str) -> tuple[str, Profile]:
    """The task and the figures in the plan of a bundled model."""
    plan = as_plan(name)
    if plan is None or plan.facts is None:
        raise CheckpointError(f"{find(name)} has no {PLAN} of these weights; type: make plans")
    return TASKS.get(plan.about.verb, plan.about.verb), plan.facts.profile


def _ms(seconds: float | None, otherwise: str) -> str:
    return otherwise if seconds is None else f"{1000 * seconds:.0f} ms"


def _markdown(rows: list[list[str]]) -> str:
    """Rows of cells as a Markdown table, the first one its head."""
    escaped = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in escaped]
    lines.insert(1, "|---" * len(rows[0]) + "|")
    return "\n".join(lines) + "\n"


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
    rows = [head]
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
        rows.append(cells)
    return _markdown(rows)


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
