"""What a mixer costs in one row of a net: `python -m benchmarks.mixers`.

It writes the costs of each row of docs/mixers.json into that file: the row takes the place of the
second of the three blocks of a frame-level MarbleNet 3x2x64. Times are medians of rounds in turn,
as multiples of the plain net's.
"""

import json
import sys
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
    """The net with fields of the row under test set, or the plain one."""
    settings = ["size=custom", *(f"blocks.{ROW}.{text}" for text in assignments)]
    model = sk.build(override(sk.MarbleNet(frame_level=True), settings), seed=0)
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


def main(names: list[str]) -> None:
    page: dict[str, Any] = json.loads(TARGET.read_text(encoding="utf-8"))
    found = {name: row for name, row in page["rows"].items() if not names or name in names}
    rows = {PLAIN: []} | {name: row["row"] for name, row in found.items()}
    plain = model_of([])
    streaming, training = (ratios(kind, rows) for kind in (Streaming, Training))
    for name, row in found.items():
        row |= costs(row["row"], plain)
        row |= {"stream": streaming[name], "training": training[name]}
        session: Any = sk.stream(model_of(row["row"]), vad=None)
        row["engine"] = session.backend.partition(":")[0]
    page["about"] = {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": processor(),
        "torch": torch.__version__,
        "sample_rate": SAMPLE_RATE,
    }
    TARGET.write_text(json.dumps(page, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    keep_freed_memory()
    main(sys.argv[1:])
