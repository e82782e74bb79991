"""`speechkit info`: what a model is, what it costs and how far it looks."""

from dataclasses import asdict
from typing import Any

from speechkit.cli.options import Json, ModelName
from speechkit.cli.output import pairs, show


def info(model: ModelName, as_json: Json = False) -> None:
    """Describe a model: size, work per second, latency, receptive field."""
    from speechkit.checkpoint import CONFIG, WEIGHTS, find, load
    from speechkit.models.profile import profile

    folder = find(model)
    net = load(folder)
    row = {
        "kind": net.config.kind,
        "task": net.config.task,
        "labels": list(net.labels),
        "sample_rate": net.sample_rate,
        "size_bytes": sum((folder / name).stat().st_size for name in (CONFIG, WEIGHTS)),
        **asdict(profile(net)),
    }
    show(row, pairs(_in_words(row)), as_json)


def _in_words(row: dict[str, Any]) -> dict[str, str]:
    """The row for a person: seconds, hertz and millions instead of bare numbers."""

    def seconds(name: str, otherwise: str) -> str:
        return otherwise if row[name] is None else f"{row[name]:.4g} s"

    return {
        "kind": row["kind"],
        "task": row["task"],
        "labels": " ".join(label if label.strip() else repr(label) for label in row["labels"]),
        "sample rate": f"{row['sample_rate']:,} Hz",
        "size": f"{row['size_bytes']:,} bytes",
        "parameters": f"{row['parameters']:,}",
        "work": f"{row['macs_per_s'] / 1e6:.2f} million multiply-adds per second of audio",
        "frame": seconds("frame_s", ""),
        "look-ahead": seconds("lookahead_s", "no bound"),
        "receptive field": seconds("receptive_field_s", "no bound"),
        "latency": seconds("latency_s", "does not stream"),
        "streamable": "yes" if row["streamable"] else f"no: {row['why_not_streamable']}",
    }
