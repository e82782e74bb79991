"""`speechkit info` and `models`: a model's card, size, work and latency."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from speechkit.cli.options import Json, ModelOrPlan
from speechkit.cli.output import pairs, show
from speechkit.errors import ConfigError

if TYPE_CHECKING:
    from speechkit.card import AppliedTransform, ModelCard
    from speechkit.plans.about import About, Facts


def info(
    model: ModelOrPlan,
    allow_nonfinite: Annotated[
        bool, typer.Option("--allow-nonfinite", help="Describe a model with NaN in its weights.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Describe a model: its card, size, work per second, latency, receptive field."""
    from speechkit.card import read_transforms
    from speechkit.io.folders import CONFIG, WEIGHTS, find
    from speechkit.plans.source import card_of

    about, facts, nonfinite, in_torch = _described(model, allow_nonfinite)
    files = [Path(model)]
    if not files[0].is_file():
        files = [find(model) / name for name in (CONFIG, WEIGHTS)]
    card, applied = card_of(model), read_transforms(files[0].parent)
    row = {
        "kind": about.kind,
        "task": about.task,
        "labels": list(about.labels),
        "sample_rate": about.sample_rate,
        "size_bytes": sum(file.stat().st_size for file in files),
        **asdict(facts.profile),
        "rules": {name: asdict(rule) for name, rule in about.rules.items()},
        "in_torch": in_torch,
        "nonfinite": nonfinite,
        "card": card and asdict(card),
        "transforms": [asdict(one) for one in applied],
    }
    words = {**_in_words(row), **card_in_words(card)}
    if applied:
        words["transforms"] = transforms_in_words(applied)
    show(row, pairs(words), as_json)


def _described(model: str, allow_nonfinite: bool) -> "tuple[About, Facts, list[str], list[str]]":
    """The `About` and `Facts` of a model, the names of its tensors with NaN, and the types of its
    layers that run in torch in a stream."""
    from speechkit.plans.source import as_plan, why_torch, with_torch

    plan = as_plan(model)
    if plan is not None and plan.facts is not None:
        return plan.about, plan.facts, [], []
    if Path(model).is_file():
        raise ConfigError(
            f"{model} was saved without facts; speechkit export MODEL --format native writes them"
        )
    checkpoint = with_torch("speechkit.checkpoint", why_torch(model))
    made = with_torch("speechkit.tasks.plans")
    net = checkpoint.load(model, allow_nonfinite=allow_nonfinite)
    facts = made.facts_of(net)
    in_torch = made.layers_in_torch(net) if facts.profile.streamable else []
    return made.about_of(net), facts, checkpoint.nonfinite(net.state_dict()), in_torch


def models(as_json: Json = False) -> None:
    """List the bundled models and those that `speechkit pull` gets, and what each is for."""
    from speechkit.card import ModelCard, bundled_models
    from speechkit.published import published

    for name, card in bundled_models().items():
        row = {"name": name, "state": "bundled", **asdict(card)}
        show(row, f"{name} {card.purpose}", as_json)
    for name, one in published().items():
        card = ModelCard(purpose=one.purpose, licence=one.licence)
        row = {"name": name, "state": "pulled" if one.is_pulled else "published", **asdict(card)}
        hint = "" if one.is_pulled else f"; speechkit pull {name}"
        show(row, f"{name} {one.purpose}{hint}", as_json)


def card_in_words(card: "ModelCard | None") -> dict[str, str]:
    """A card as text, without empty fields."""
    if card is None:
        return {"card": "none"}
    row = {
        "purpose": card.purpose,
        "domain": card.domain,
        "data": "\n".join(card.data),
        "licence": card.licence,
        "made by": "\n".join(card.commands),
        "seed": ", ".join(map(str, card.seeds)),
        "scores": "\n".join(map(str, card.scores)),
        "measured": card.measured,
        "limits": "\n".join(card.limits),
    }
    return {name: text for name, text in row.items() if text}


def _in_words(row: dict[str, Any]) -> dict[str, str]:
    """The row as text with units."""

    def seconds(name: str, otherwise: str) -> str:
        return otherwise if row[name] is None else f"{row[name]:.4g} s"

    words = {
        "kind": row["kind"],
        "task": row["task"],
        "labels": " ".join(label if label.strip() else repr(label) for label in row["labels"]),
        "sample rate": f"{row['sample_rate']:,} Hz",
        "size": f"{row['size_bytes']:,} bytes",
        "parameters": f"{row['parameters']:,}",
        "work": _work(row),
        "frame": seconds("frame_s", ""),
        "look-ahead": seconds("lookahead_s", "no bound"),
        "receptive field": seconds("receptive_field_s", "no bound"),
        "latency": seconds("latency_s", "does not stream"),
        "streamable": _streaming(row),
    }
    for name, rules in row["rules"].items():
        words[name] = "\n".join(f"{rule} {_value(value)}" for rule, value in rules.items())
    if row["nonfinite"]:
        words["NaN or infinity in"] = "\n".join(row["nonfinite"])
    return words


def _streaming(row: dict[str, Any]) -> str:
    if not row["streamable"]:
        return f"no: {row['why_not_streamable']}"
    return f"yes, in torch: {', '.join(row['in_torch'])}" if row["in_torch"] else "yes"


def _work(row: dict[str, Any]) -> str:
    text = f"{row['macs_per_s'] / 1e6:.2f} million multiply-adds per second of audio"
    others = row["not_counted"]
    return f"{text}; not counted: {', '.join(others)}" if others else text


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def transforms_in_words(applied: "Sequence[AppliedTransform]") -> str:
    """Each transform, followed by its report."""
    lines = []
    for one in applied:
        lines.append(one.name)
        for key, value in one.report.items():
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            lines.append(f"  {key} {text}")
    return "\n".join(lines)
