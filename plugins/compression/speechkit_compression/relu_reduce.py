"""A trained net with fewer ReLUs."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from speechkit.component import Spec
from speechkit.errors import ConfigError
from speechkit.models import Model
from speechkit.probes import Examples
from speechkit.transforms import required
from speechkit_compression.healing import heal
from speechkit_compression.likeness import likeness
from speechkit_compression.pareto import front
from speechkit_compression.relu_surgery import activations, with_activations

STEPS = "cull", "thin"
RANKS = "criticality", "random"
IDENTITY = Spec("identity")
Places = tuple[int, ...]
"""Activations of a net that keep their ReLU, as places in the list of all."""


class Point(NamedTuple):
    """A net's ReLUs for each frame of scores, and its share of the original's best labels."""

    relus_per_frame: int
    agreement: float


@dataclass(frozen=True)
class ReluReduce:
    """Keeps at most the share `budget` of a net's ReLUs; the others become `identity`.

    A stage is a line of the config's table of blocks. The step `cull` removes all ReLUs of a stage,
    `thin` every second one of a stage, so that of n there stay ceil(n / 2). Stages are kept from
    the most critical on, each that still fits in the budget. The criticality of stage k is

        (A(only stage k has ReLUs) − A(no stage has)) / n_k^w

    with the agreement A with the original on the examples and the stage's ReLUs per frame n_k.
    Every net is healed for `heal` batches before it is measured. With both steps the result is the
    better one of the nets of whole and of thin stages. `rank=random` draws the order of the stages
    by the seed, as a control. ConfigError for a net without ReLU or of other blocks than `plain`.
    Source: Jha et al., DeepReDuce, arXiv:2103.01396. There A is the accuracy, and a third step
    makes the net narrower.
    """

    budget: float
    steps: str = "cull thin"
    heal: int = 200
    w: float = 0.07
    rank: str = "criticality"

    def __post_init__(self) -> None:
        if not 0 <= self.budget <= 1:
            raise ConfigError(f"relu_reduce: budget={self.budget}; give a share from 0 to 1")
        if not self.steps.split() or not set(self.steps.split()) <= set(STEPS):
            raise ConfigError(f"relu_reduce: steps={self.steps!r}; give cull, thin or both")
        if self.heal < 0:
            raise ConfigError(f"relu_reduce: heal={self.heal}; give at least 0")
        if self.rank not in RANKS:
            raise ConfigError(f"relu_reduce: rank={self.rank}; give one of {', '.join(RANKS)}")

    def __call__(self, model: Model, examples: Examples | None) -> tuple[Model, dict[str, Any]]:
        trials = Trials(model, required(examples, "relu_reduce"), self.heal)
        critical = criticality(trials, self.w) if self.rank == "criticality" else None
        total = trials.relus(trials.all)
        order = _order(trials, critical)
        nets = [
            fitting(
                [trials.stage(k, thin=step == "thin") for k in order], trials, self.budget * total
            )
            for step in self.steps.split()
        ]
        best = max(nets, key=lambda kept: trials(kept)[1].agreement)
        made, point = trials(best)
        counts = total, point.relus_per_frame
        return made, {
            "relus_per_frame": list(counts),
            "relus_per_s": [round(count / model.frame_s) for count in counts],
            "agreement": point.agreement,
            "kept": [
                f"row {each.row} sub-block {each.sub}" for each in (trials.found[n] for n in best)
            ],
            "criticality": critical and {str(k): value for k, value in critical.items()},
            "pareto": [
                point._asdict()
                for point in front(
                    trials.points, lambda p: p.relus_per_frame, lambda p: -p.agreement
                )
            ],
        }


class Trials:
    """Nets that keep some of a model's ReLUs, each healed and measured once."""

    def __init__(self, model: Model, examples: Examples, steps: int) -> None:
        self.model, self.examples, self.steps = model, examples, steps
        self.found = activations(model.config, "relu_reduce")
        self.all = tuple(n for n, each in enumerate(self.found) if each.is_relu)
        if not self.all:
            raise ConfigError("transform relu_reduce: no activation of the net is relu")
        self.known: dict[Places, tuple[Model, Point]] = {}

    def __call__(self, kept: Places) -> tuple[Model, Point]:
        """The net in which only `kept` are ReLUs, after healing."""
        if kept not in self.known:
            specs = [
                IDENTITY if each.is_relu and n not in kept else each.spec
                for n, each in enumerate(self.found)
            ]
            made = with_activations(self.model, specs, self.examples.seed)
            heal(made, self.model, self.examples, self.steps)
            agreement = likeness(made, self.model, self.examples).agreement
            self.known[kept] = made, Point(self.relus(kept), agreement)
        return self.known[kept]

    @property
    def points(self) -> list[Point]:
        """The nets that were tried, and the original."""
        original = Point(self.relus(self.all), 1.0)
        return [original, *(point for _, point in self.known.values())]

    @property
    def stages(self) -> list[int]:
        """The stages with ReLUs, in the order of the net."""
        return sorted({self.found[n].stage for n in self.all})

    def stage(self, stage: int, thin: bool = False) -> Places:
        """The ReLUs of a stage; if `thin`, the first, third, fifth, ... of them."""
        places = tuple(n for n in self.all if self.found[n].stage == stage)
        return places[::2] if thin else places

    def relus(self, kept: Iterable[int]) -> int:
        """The number of ReLUs for each frame of scores."""
        return sum(self.found[n].per_frame for n in kept)


def criticality(trials: Trials, w: float) -> dict[int, float]:
    """(A(only stage k) − A(none)) / n_k^w for each stage k."""
    none = trials(())[1].agreement
    alone = {k: trials(trials.stage(k))[1] for k in trials.stages}
    return {k: (point.agreement - none) / point.relus_per_frame**w for k, point in alone.items()}


def fitting(stages: Iterable[Places], trials: Trials, most: float) -> Places:
    """The places of those stages, in their order, that together have at most `most` ReLUs."""
    kept: list[int] = []
    for stage in stages:
        if trials.relus([*kept, *stage]) <= most:
            kept += stage
    return tuple(sorted(kept))


def _order(trials: Trials, critical: dict[int, float] | None) -> list[int]:
    """The stages by falling criticality, or drawn if it is None."""
    stages = trials.stages
    if critical is None:
        return [stages[n] for n in torch.randperm(len(stages)).tolist()]
    return sorted(stages, key=lambda k: -critical[k])
