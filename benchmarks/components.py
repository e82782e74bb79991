"""A step of every component that streams, in a frame-level MarbleNet fed 20 ms at a time.

A mixer or block is measured in all rows of the net, and in one of them. Each session is compared
with its own net's scores of the whole recording. Components that read whole utterances are left
out; parameters have the values of the component's example.
"""

import time
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache, partial
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import speechkit as sk
from benchmarks.inputs import SAMPLE_RATE, speech
from benchmarks.registry import Benchmark, Contestant, Figure, Options, Run
from benchmarks.settled import settled
from speechkit.component import Spec
from speechkit.config import override
from speechkit.models import Model
from speechkit.nn import Chunk
from speechkit.plugins import components
from speechkit.tasks import task_of

TOLERANCE = 1e-3
"""The largest difference of scores, relative to the largest: recurrent layers amplify rounding."""
COARSE = {"activation activations/analog": 0.2}
"""The same for components that round to a few levels: one between two may go to either."""
STEP = 20 * SAMPLE_RATE // 1000
BLOCK, BLOCKS = 4, 10
"""Steps in a block, and blocks in a round; no net returns scores less often than once per block."""
STEPS = BLOCK * BLOCKS
BEGUN_S = 4.0
"""The duration of the sound before the first round, longer than the look-ahead of the nets."""
PLAIN = "relu + batch norm"
FIELDS = "activation", "norm", "channel", "mixer", "residual", "block", "stack", "stem", "frontend"
"""The kinds that are fields of a config under their own names, and may read whole utterances."""
IN_A_ROW = "mixer", "block"
"""The kinds that are measured in a single row too, which has two sub-blocks."""
CLIPS = "head", "pool"
"""The kinds whose pool over the utterance becomes one over the frames so far in a stream."""
NESTED = {
    "pool": ("head", "core/clip", "pool"),
    "normalizer": ("frontend", "core/log_mel", "normalize"),
}
"""The kinds that are a parameter of another component: the field, that component, the parameter."""
WORST = 5
"""The number of slowest components in the summary."""

Fields = tuple[tuple[str, str], ...]
"""What of a net's config is not the default: paths of fields and values, in text."""


def benchmarks(options: Options) -> list[Benchmark]:
    contestants = tuple(
        Contestant(
            name,
            partial(Session, fields),
            COARSE.get(name, TOLERANCE),
            partial(latest, fields),
            STEPS,
        )
        for name, fields in {PLAIN: (), **nets()}.items()
    )
    work = "a step of 20 ms of a frame-level MarbleNet with one component exchanged"
    return [
        Benchmark(
            "components/marblenet",
            work,
            contestants,
            measure=round_us,
            unit="µs",
            note=engine,
            summary=summary,
        )
    ]


def nets() -> dict[str, Fields]:
    """For each component of the core and of installed plugins the fields of its net's config."""
    found: dict[str, Fields] = {}
    for kind in (*FIELDS, "normalizer", *CLIPS):
        for entry in components(kind):
            if entry.component.time == "utterance" and kind not in CLIPS:
                continue
            spec = Spec(entry.qualified_name, dict(entry.component.example))
            field = kind
            if kind in NESTED:
                field, outer, parameter = NESTED[kind]
                spec = Spec(outer, {parameter: spec})
            found[f"{kind} {entry.qualified_name}"] = ((field, str(spec)),)
            if kind in IN_A_ROW:
                row = ("size", "custom"), (f"blocks.2.{kind}", str(spec))
                found[f"row of {kind} {entry.qualified_name}"] = row
    return found


@lru_cache(maxsize=1)
def model_of(fields: Fields) -> Model:
    config = override(sk.MarbleNet(frame_level=True), map("=".join, fields))
    model = sk.build(config, seed=0)
    return settled(model, model.features(torch.from_numpy(speech(BEGUN_S))[None]).x)


class Session:
    """A session; a round feeds the next steps, and returns the scores of the latest frame."""

    def __init__(self, fields: Fields) -> None:
        self.stream: Any = sk.stream(model_of(fields), vad=None)
        self.stream.feed(speech(BEGUN_S))
        self.steps = np.split(sound()[-STEP * STEPS :], STEPS)

    def __call__(self) -> Tensor:
        for step in self.steps:
            self.stream.feed(step)
        return torch.as_tensor(self.stream.scores)


@torch.inference_mode()
def latest(fields: Fields) -> Tensor:
    """The same scores from the whole recording."""
    model = model_of(fields)
    layer = model.stream_layer(task_of(model).window_s)
    scores: Tensor = layer(Chunk.of(torch.from_numpy(sound())[None, None])).x
    return scores[0, :, -1 - layer.delay]


def sound() -> NDArray[np.float32]:
    """All the sound that a session is fed until the end of its first round."""
    return speech(BEGUN_S + STEPS * STEP / SAMPLE_RATE)


def round_us(run: Run) -> float:
    """A round in microseconds, from the median of its blocks: other processes disturb it less."""
    assert isinstance(run, Session)
    times_s = []
    for block in range(0, STEPS, BLOCK):
        began_s = time.perf_counter()
        for step in run.steps[block : block + BLOCK]:
            run.stream.feed(step)
        times_s.append(time.perf_counter() - began_s)
    return 1e6 * BLOCKS * median(times_s)


def engine(run: Run) -> str:
    """The engine of a session."""
    return str(run.stream.backend) if isinstance(run, Session) else ""


def summary(figures: Mapping[str, Figure]) -> list[str]:
    """The engines' shares, and the slowest components as multiples of the plain net's time."""
    times = {name: 1 / f.ratio for name, f in figures.items() if f.ratio and name != PLAIN}
    engines = Counter((figures[name].note or "").partition(":")[0] for name in times)
    slowest = sorted(times, key=lambda name: -times[name])[:WORST]
    return [
        f"{len(times)} components: "
        + ", ".join(
            f"{count} {name} ({count / len(times):.0%})" for name, count in engines.items()
        ),
        "slowest: " + ", ".join(f"{name} {times[name]:.1f}×" for name in slowest),
    ]
