"""What a mixer costs in one row of a net.

    python -m benchmarks.mixers
    python -m benchmarks.mixers retention trellis
    python -m benchmarks.mixers mixer=lru "mixer=multires kernel=64" stack=unet

The first command writes the costs of each row of docs/mixers.json into that file, the second those
of the named rows. The third prints those of other rows, as that file has them. The net is a
frame-level MarbleNet 3x2x64. A field of `sk.Block` is set in the second of its three blocks, any
other in the net. Times are medians of rounds in turn, as multiples of the plain net's; the other
figures are the difference from it.
"""

import json
import sys
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import numpy as np
import torch

import speechkit as sk
from benchmarks.components import BEGUN_S, STEP, STEPS, sound
from benchmarks.inputs import SAMPLE_RATE, speech
from benchmarks.report import processor
from benchmarks.settled import settled
from benchmarks.timing import interleaved
from speechkit.config import override
from speechkit.models import Model
from speechkit.models.profile import profile
from speechkit.train.memory import keep_freed_memory

TARGET = Path(__file__).parents[1] / "docs" / "mixers.json"
ROW = 2
"""The index in `blocks` of the row under test."""
PLAIN = "plain"
ROUNDS = 15
BATCH, SECONDS = 16, 2.0
"""A step of training."""


def model_of(assignments: list[str]) -> Model:
    """The net with these settings of the row under test or of the net, or the plain one."""
    own = {field.name for field in fields(sk.Block)}
    settings = [
        f"blocks.{ROW}.{text}" if text.partition("=")[0] in own else text for text in assignments
    ]
    model = sk.build(override(sk.MarbleNet(frame_level=True), ["size=custom", *settings]), seed=0)
    return settled(model, model.features(torch.from_numpy(speech(BEGUN_S))[None]).x)


class Streaming:
    """A session; a round feeds the next steps of 20 ms."""

    def __init__(self, model: Model) -> None:
        self.stream = sk.stream(model, vad=None)
        self.stream.feed(speech(BEGUN_S))
        self.steps = np.split(sound()[-STEP * STEPS :], STEPS)

    def __call__(self) -> None:
        for step in self.steps:
            self.stream.feed(step)


class Training:
    """A net in training; a round is a step: forward, the mean of squares, backward."""

    def __init__(self, model: Model) -> None:
        self.model = model.train()
        self.audio = torch.from_numpy(speech(SECONDS * BATCH)).reshape(BATCH, -1)

    def __call__(self) -> None:
        self.model.zero_grad()
        self.model(self.audio).scores.square().mean().backward()


def spent_s(run: Any) -> float:
    """The processor time of a round, which other processes disturb least."""
    began_s = process_time()
    run()
    return process_time() - began_s


def ratios(kind: type[Streaming | Training], rows: dict[str, list[str]]) -> dict[str, float]:
    """The median time of each row as a multiple of the plain net's."""
    runs: dict[str, Any] = {name: kind(model_of(row)) for name, row in rows.items()}
    for run in runs.values():
        run()
    times = interleaved(runs, ROUNDS, spent_s)
    plain = median(times[PLAIN])
    return {name: round(median(each) / plain, 2) for name, each in times.items()}


def costs(row: list[str], plain: Model) -> dict[str, float]:
    """What is counted: parameters, multiply-adds and latency beside the plain net's."""
    own, other = profile(model_of(row)), profile(plain)
    assert own.latency_s is not None
    assert other.latency_s is not None
    return {
        "parameters": own.parameters - other.parameters,
        "kmacs_per_s": round((own.macs_per_s - other.macs_per_s) / 1000),
        "latency_ms": round(1000 * (own.latency_s - other.latency_s)),
    }


def measured(rows: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
    """What each row costs."""
    plain = model_of([])
    streaming, training = (ratios(kind, {PLAIN: [], **rows}) for kind in (Streaming, Training))
    found: dict[str, dict[str, Any]] = {}
    for name, row in rows.items():
        session: Any = sk.stream(model_of(row), vad=None)
        found[name] = {
            **costs(row, plain),
            "stream": streaming[name],
            "training": training[name],
            "engine": session.backend.partition(":")[0],
        }
    return found


def write(names: list[str]) -> None:
    """Measures the rows of the page with these names, or all."""
    page: dict[str, Any] = json.loads(TARGET.read_text(encoding="utf-8"))
    known = {name: row for name, row in page["rows"].items() if not names or name in names}
    for name, found in measured({name: row["row"] for name, row in known.items()}).items():
        known[name] |= found
    page["about"] = {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": processor(),
        "torch": torch.__version__,
        "sample_rate": SAMPLE_RATE,
    }
    TARGET.write_text(json.dumps(page, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main(arguments: list[str]) -> None:
    given = {text: text.split() for text in arguments if "=" in text}
    if not given:
        write(arguments)
        return
    for name, row in measured(given).items():
        print(name, json.dumps(row))


if __name__ == "__main__":
    torch.set_num_threads(1)
    keep_freed_memory()
    main(sys.argv[1:])
