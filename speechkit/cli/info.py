"""`speechkit info` and `models`: a model's card, size, work and latency."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from speechkit.cli.options import Json, ModelName
from speechkit.cli.output import pairs, show
from speechkit.cli.transform import transforms_in_words

if TYPE_CHECKING:
    from speechkit.card import ModelCard


def info(
    model: ModelName,
    allow_nonfinite: Annotated[
        bool, typer.Option("--allow-nonfinite", help="Describe a model with NaN in its weights.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Describe a model: its card, size, work per second, latency, receptive field."""
    from speechkit.card import read_card, read_transforms
    from speechkit.checkpoint import load, nonfinite
    from speechkit.folders import CONFIG, WEIGHTS, find
    from speechkit.models.profile import profile
    from speechkit.rules.changed import RULES

    folder = find(model)
    card, applied = read_card(folder), read_transforms(folder)
    net = load(folder, allow_nonfinite=allow_nonfinite)
    row = {
        "kind": net.config.kind,
        "task": net.config.task,
        "labels": list(net.labels),
        "sample_rate": net.sample_rate,
        "size_bytes": sum((folder / name).stat().st_size for name in (CONFIG, WEIGHTS)),
        **asdict(profile(net)),
        "rules": {
            name: asdict(getattr(net.config, name)) for name in RULES if hasattr(net.config, name)
        },
        "nonfinite": nonfinite(net.state_dict()),
        "card": card and asdict(card),
        "transforms": [asdict(one) for one in applied],
    }
    words = {**_in_words(row), **card_in_words(card)}
    if applied:
        words["transforms"] = transforms_in_words(applied)
    show(row, pairs(words), as_json)


def models(as_json: Json = False) -> None:
    """List the bundled models, and what each is for."""
    from speechkit.card import bundled_models

    for name, card in bundled_models().items():
        show({"name": name, **asdict(card)}, f"{name} {card.purpose}", as_json)


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
        "streamable": "yes" if row["streamable"] else f"no: {row['why_not_streamable']}",
    }
    for name, rules in row["rules"].items():
        words[name] = "\n".join(f"{rule} {_value(value)}" for rule, value in rules.items())
    if row["nonfinite"]:
        words["NaN or infinity in"] = "\n".join(row["nonfinite"])
    return words


def _work(row: dict[str, Any]) -> str:
    text = f"{row['macs_per_s'] / 1e6:.2f} million multiply-adds per second of audio"
    others = row["not_counted"]
    return f"{text}; not counted: {', '.join(others)}" if others else text


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
