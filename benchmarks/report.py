"""Reports a run of benchmarks: the machine, tables on the terminal, and JSON."""

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.registry import Benchmark, Figure

PACKAGES = (
    *("speechkit-core", "torch", "numpy", "onnxruntime", "openvino", "numba"),
    *("silero-vad", "webrtcvad-wheels", "nemo_toolkit"),
)


def circumstances(rounds: int, threads: int) -> dict[str, Any]:
    """The machine, time and versions of a measurement."""
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "commit": _commit(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "load": load(),
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "threads": threads,
        "rounds": rounds,
    }


def load() -> list[float]:
    """The machine's load of the last 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def as_json(benchmark: Benchmark, found: dict[str, Figure]) -> dict[str, Any]:
    """A benchmark's figures as plain values."""
    return {
        "work": benchmark.work,
        "unit": benchmark.unit,
        "baseline": benchmark.contestants[0].name,
        "load": load(),
        "contestants": {
            name: {key: value for key, value in asdict(figure).items() if value is not None}
            for name, figure in found.items()
        },
        "summary": benchmark.summary(found) if benchmark.summary else [],
    }


def write(path: Path, result: dict[str, Any]) -> None:
    """Writes the circumstances and all benchmarks so far."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def show(console: Console, name: str, result: dict[str, Any]) -> None:
    """One benchmark as a table."""
    console.print(f"[bold]{name}[/]: {result['work']}", highlight=False)
    table = Table(box=None)
    table.add_column("")
    for head in (f"median {result['unit']}", "p10", "ratio", "RTF"):
        table.add_column(head, justify="right")
    noted = any("note" in figure for figure in result["contestants"].values())
    if noted:
        table.add_column("note")
    refused = []
    for contestant, figure in result["contestants"].items():
        if "refused" in figure:
            refused.append(f"{contestant}: {figure['refused']}")
        else:
            cells = (figure.get(key) for key in ("median", "p10", "ratio", "rtf"))
            note = [figure.get("note", "")] if noted else []
            table.add_row(contestant, *map(short, cells), *note)
    if table.row_count:
        console.print(table)
    notes = [
        *result["summary"],
        *refused,
        f"baseline {result['baseline']}; load {result['load'][0]}",
    ]
    console.print("\n".join(notes), style="dim", markup=False, highlight=False)
    console.print()


def short(value: float | None) -> str:
    """Three digits, or all before the point."""
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _commit() -> str | None:
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    return done.stdout.strip() or None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
