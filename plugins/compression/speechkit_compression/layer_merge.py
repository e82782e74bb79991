"""Merges neighbouring layers of a trained net until it fits a budget of time."""

import copy
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import median
from time import process_time
from typing import Any, Literal, NamedTuple

import torch

from speechkit.errors import ConfigError
from speechkit.models import Model
from speechkit.nn import Chunk, Residual, Serial, StreamLayer, Taps, describes, fuse
from speechkit.probes import Examples
from speechkit.transforms import check_components, required
from speechkit.transforms.rows import row_name
from speechkit_compression.healing import divergence, heal
from speechkit_compression.merging import merged, merged_names, sub_block_name
from speechkit_compression.plan import Entry, best_plan
from speechkit_compression.relu_surgery import refuse_gate
from speechkit_compression.segments import Segment, SubBlock, segments, sub_blocks, unchanged

TAKES = {
    "stem": ("core/plain",),
    "block": ("core/plain",),
    "stack": ("core/serial",),
    "mixer": ("core/depthwise",),
    "channel": ("core/linear",),
    "norm": ("core/batch", "core/none"),
    "residual": ("core/add",),
}
"""The components of a net whose layers can be merged."""
UNITS = 10_000
"""The units of time that the given net takes."""
FRAMES, ROUNDS = 1000, 30
"""The frames of features for which layers are measured, and how often."""
JUDGED = 128
"""The utterances on which a segment is judged."""


class LayerMerge:
    """Merges neighbouring sub-blocks so that stem and encoder take at most `budget` of their time.

    A segment of up to `longest` sub-blocks becomes one: its filters up to some sub-block and its
    1×1 layers from that one on are kept and merged; its other layers and its inner activations are
    left out. Of the plans with Σ T ≤ `budget` · T₀ the result has the one with the largest Σ I, by
    dynamic programming. T is the CPU time of the prepared layers on this machine, or with
    `latency=macs` their multiply-adds. I = exp(−D), and D is the mean divergence of the scores from
    those of the given net, in nats, with this segment alone merged and healed for `trial` steps.
    The result is healed for `heal` steps; `lr` is the learning rate of both. ConfigError for a net
    of other components, and for a budget that no plan meets. Kim et al., arXiv:2406.12837.
    """

    def __init__(
        self,
        budget: float,
        latency: Literal["measure", "macs"] = "measure",
        longest: int = 4,
        trial: int = 10,
        heal: int = 40,
        lr: float = 1e-3,
    ) -> None:
        if not budget > 0 or latency not in ("measure", "macs"):
            raise ConfigError(
                f"transform layer_merge: budget={budget}, latency={latency}; give a share above 0, "
                "and measure or macs"
            )
        if longest < 1 or min(trial, heal) < 0 or not lr > 0:
            raise ConfigError(
                f"transform layer_merge: longest={longest}, trial={trial}, heal={heal}, lr={lr}; "
                "give 1 or more sub-blocks, 0 or more steps, and a rate above 0"
            )
        self.budget, self.latency, self.longest = budget, latency, longest
        self.trial, self.heal, self.lr = trial, heal, lr

    def __call__(self, model: Model, examples: Examples | None) -> tuple[Model, dict[str, Any]]:
        check_components("layer_merge", model.config, TAKES)
        for kind, spec in model.config.components():
            if kind == "activation":
                refuse_gate(spec, "layer_merge")
        teacher = _Teacher(model, required(examples, "layer_merge"))
        blocks = sub_blocks(model.config, model.frontend.channels_out(1))
        same = unchanged(len(blocks))

        def alone(segment: Segment) -> Model:
            return merged(model, [*same[: segment.start], segment, *same[segment.stop :]])

        found = list(segments(blocks, self.longest))
        parts = {segment: _parts(alone(segment), blocks, segment) for segment in found}
        costs = _seconds(parts) if self.latency == "measure" else _macs(parts)
        whole = sum(costs[segment] for segment in same)
        times = {segment: math.ceil(cost / whole * UNITS) for segment, cost in costs.items()}
        self._check_budget(times, len(blocks))
        entries = []
        for segment, time in times.items():
            importance = 1.0
            if segment.merges:
                made = alone(segment)
                teacher.heal(made, self.trial, self.lr)
                importance = math.exp(-teacher.divergence(made))
            entries.append(Entry(segment, time, importance))
        plan = best_plan(entries, len(blocks), self._units(len(blocks)))
        assert plan
        chosen = [entry for entry in plan if entry.segment.merges]
        report: dict[str, Any] = {"latency": self.latency, "merged": []}
        report["share"] = sum(costs[entry.segment] for entry in plan) / whole
        if not chosen:
            return copy.deepcopy(model), report
        made = merged(model, [entry.segment for entry in plan])
        names = merged_names(blocks, [entry.segment for entry in plan])
        report["merged"] = [
            {
                "importance": importance,
                **_described(blocks, segment),
                "border_error": _border_error(teacher, made, blocks, segment, names[segment]),
            }
            for segment, _, importance in chosen
        ]
        report["divergence_merged"] = teacher.divergence(made)
        teacher.heal(made, self.heal, self.lr)
        report["divergence_healed"] = teacher.divergence(made)
        return made, report

    def _units(self, count: int) -> int:
        """The budget; rounded up, `count` unchanged sub-blocks may take one more unit each."""
        return int(self.budget * UNITS) if self.budget < 1 else UNITS + count

    def _check_budget(self, times: Mapping[Segment, int], count: int) -> None:
        """Raises ConfigError if no plan meets the budget."""
        fastest = best_plan([Entry(s, t, -t) for s, t in times.items()], count, UNITS + count)
        assert fastest
        least = sum(entry.time for entry in fastest)
        if least > self._units(count):
            raise ConfigError(
                f"transform layer_merge: budget={self.budget}, but the fastest plan takes "
                f"{least / UNITS:.3f} of the net's time; give a larger budget, or a larger longest "
                f"than {self.longest}"
            )


class _Teacher:
    """The given net, the utterances on which others are judged, and those that heal them."""

    def __init__(self, model: Model, examples: Examples) -> None:
        self.model, self.examples = model, examples
        chance = torch.Generator().manual_seed(examples.seed)
        order = torch.randperm(len(examples.utterances), generator=chance).tolist()
        self.healing = order[JUDGED:] or order
        with torch.no_grad():
            self.judged = [(c, model.score(c)) for _, c in self._drawn(order[:JUDGED])]

    @torch.no_grad()
    def divergence(self, student: Model) -> float:
        """The mean divergence of the student's scores in nats."""
        return torch.cat([divergence(student.score(c), y) for c, y in self.judged]).mean().item()

    def heal(self, student: Model, steps: int, lr: float) -> None:
        """Trains the student in place, with utterances drawn from all that are not judged."""
        if steps:
            drawn = self.healing[: steps * self.examples.batch_size]
            heal(student, self.model, self._drawn(drawn), steps, lr)

    def _drawn(self, indices: Sequence[int]) -> Examples:
        known = self.examples
        utterances = [known.utterances[index] for index in indices]
        return Examples(self.model, utterances, seed=known.seed, batch_size=known.batch_size)


class _Part(NamedTuple):
    """A layer that reads `channels` channels and returns `frames` frames."""

    layer: StreamLayer
    channels: int
    frames: int


def _parts(made: Model, blocks: Sequence[SubBlock], segment: Segment) -> list[_Part]:
    """What computes a segment in a net that has the same rows and sub-blocks before it."""
    first, last = blocks[segment.start], blocks[segment.stop - 1]
    row: Any = made.get_submodule(row_name(first.row))
    layer: Any = made.get_submodule(sub_block_name(first))
    body: Any = made.get_submodule(sub_block_name(first).rpartition(".")[0])
    after = row.after if last.ends else body[2 * first.place + 1]
    width = blocks[segment.start - first.place].c_in
    layers = [(Serial(layer, after), first.c_in)]
    if last.ends and first.block.residual:
        if width == first.c_in:
            # the prepared net computes them as one
            layers = [
                (Serial(Residual(Serial(layer), row.sum.shortcut, row.sum.merge), after), width)
            ]
        else:
            layers.append((row.sum.shortcut, width))
    frames = FRAMES // math.prod(b.block.stride for b in blocks[: segment.start + 1])
    return [_Part(copy.deepcopy(layer).cpu(), channels, frames) for layer, channels in layers]


def _macs(parts: Mapping[Segment, Sequence[_Part]]) -> dict[Segment, float]:
    """The multiply-adds of each segment."""
    return {
        segment: sum(
            layer.macs(part.frames * layer.stride)
            for part in own
            for layer in part.layer.modules()
            if isinstance(layer, StreamLayer) and describes(layer, "macs")
        )
        for segment, own in parts.items()
    }


@torch.inference_mode()
def _seconds(parts: Mapping[Segment, Sequence[_Part]]) -> dict[Segment, float]:
    """The median time of each segment, measured in turns; equal layers are measured once."""
    layers: dict[str, tuple[StreamLayer, Chunk]] = {}
    names: dict[Segment, list[str]] = defaultdict(list)
    for segment, own in parts.items():
        for part in own:
            layer = fuse(part.layer)
            name = f"{layer} {part.frames}"
            names[segment].append(name)
            frames = torch.randn(1, part.frames * layer.stride, part.channels).transpose(1, 2)
            layers.setdefault(name, (layer, Chunk.of(frames)))
    times: dict[str, list[float]] = defaultdict(list)
    for _ in range(ROUNDS):
        for name, (layer, given) in layers.items():
            start = process_time()
            layer(given)
            times[name].append(process_time() - start)
    return {segment: sum(median(times[n]) for n in own) for segment, own in names.items()}


def _described(blocks: Sequence[SubBlock], segment: Segment) -> dict[str, Any]:
    """The sub-blocks of a segment, and whose filters and 1×1 layers it keeps."""
    names = [f"{row_name(b.row)}.{b.place}" for b in blocks[segment.start : segment.stop]]
    split = segment.split - segment.start
    return {"sub_blocks": names, "filters": names[: split + 1], "pointwise": names[split:]}


@torch.no_grad()
def _border_error(
    teacher: "_Teacher", made: Model, blocks: Sequence[SubBlock], segment: Segment, name: str
) -> float:
    """‖y − z‖ / ‖z‖, where y is what the merged filter returns, and z what the filters that it is
    made of return one after another. Only frames near the ends of an utterance differ."""
    if segment.split == segment.start:
        return 0.0
    kept = blocks[segment.start : segment.split + 1]
    filters = [teacher.model.get_submodule(f"{sub_block_name(block)}.mixer") for block in kept]
    difference = power = 0.0
    with Taps({name: made.get_submodule(f"{name}.mixer")}) as taps:
        for features, _ in teacher.judged:
            made.score(features)
            ((_, _, (z,), y),) = taps.take()
            for one in filters:
                z = one(z)
            difference += (y.masked - z.masked).square().sum().item()
            power += z.masked.square().sum().item()
    return math.sqrt(difference / power) if power else 0.0
