"""A round of pruning that also removes weights for the sake of dead units."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from speechkit.checkpoint import load
from speechkit.errors import ComponentError, ConfigError
from speechkit.models import Model
from speechkit.nn import BatchNorm, StreamLayer, Taps
from speechkit.probes import Examples
from speechkit.transforms import required
from speechkit_compression.magnitude import zeros
from speechkit_compression.weights import check_scope, grouped, lowest, present, prunable


@dataclass(frozen=True)
class ActivateWhilePruning:
    """The model `start` without `share` of its weights that are not 0: it starts the next round.

    The given model is `start` after training, with the method `keep_zeros` if `start` has zeros. Of
    the n weights that are not 0 share · n become 0:

        1. the (share − q) · n with the smallest |w|, of each layer or with `scope` "global" of all
        2. of the others that lower their output, the q · n with the smallest |w − w_start|

    A weight w < 0 lowers its output if its input is never negative, as after a ReLU: without it
    fewer units are dead. So does w > 0 if the gain of the batch norm behind the layer is negative.
    The recordings show which inputs are never negative. Step 2 leaves the head as it is. All other
    weights, norms and biases are those of `start`. With q=0 it is a round of magnitude pruning.
    Source: Liu et al., arXiv:2212.06145; which layers have such weights here is our choice.

    ConfigError for a `start` with another config or with zeros that are not 0 in the model, and
    where step 2 has too few weights to choose from.
    """

    start: str
    share: float = 0.2
    q: float = 0.02
    scope: str = "layer"

    def __post_init__(self) -> None:
        if not 0 <= self.q <= self.share <= 1:
            raise ComponentError(
                f"ap: share={self.share}, q={self.q}; give shares from 0 to 1, q at most share"
            )
        check_scope("ap", self.scope)

    @torch.no_grad()
    def __call__(self, model: Model, examples: Examples | None) -> tuple[Model, dict[str, Any]]:
        examples = required(examples, "ap")
        made = load(self.start).to(next(model.parameters()).device)
        if made.config != model.config:
            raise ConfigError(
                f"transform ap: {self.start} has another config than the model; give the folder "
                "from which its training started"
            )
        weights, trained = present(prunable(made), "ap"), prunable(model)
        if any(trained[name][weight == 0].any() for name, weight in weights.items()):
            raise ConfigError(
                f"transform ap: weights that are 0 in {self.start} are not 0 in the model; train "
                "it with --set 'method=[\"keep_zeros\"]'"
            )
        moves = {name: (w - weights[name]).abs() for name, w in trained.items()}
        count = _count(weights)
        activating = round(self.q * count)
        others = round(self.share * count) - activating
        sizes = {name: weight.abs() for name, weight in trained.items()}
        for group in grouped(weights, self.scope):
            _prune(group, sizes, round(others * _count(group) / count))
        if activating:
            lowering = _lowering(model, examples)
            allowed = {n: moves[n].masked_fill(~lowers, math.inf) for n, lowers in lowering.items()}
            _prune({name: weights[name] for name in allowed}, allowed, activating)
        return made, {**zeros(weights), "activating": activating}


def _count(weights: dict[str, Tensor]) -> int:
    return sum(int(weight.count_nonzero()) for weight in weights.values())


def _prune(weights: dict[str, Tensor], scores: dict[str, Tensor], count: int) -> None:
    """Sets the `count` weights with the lowest finite scores to 0, of those that are not 0."""
    left = [scores[name].masked_fill(weight == 0, math.inf) for name, weight in weights.items()]
    most = sum(int(score.isfinite().sum()) for score in left)
    if most < count:
        raise ConfigError(
            f"transform ap: q asks for {count} weights that lower their output where the input is "
            f"never negative, and there are {most}; give a smaller q"
        )
    if left:
        chosen = lowest(left, [torch.ones_like(score, dtype=torch.long) for score in left], count)
        for weight, pruned in zip(weights.values(), chosen, strict=True):
            weight.masked_fill_(pruned, 0)


def _lowering(model: Model, examples: Examples) -> dict[str, Tensor]:
    """For each layer whose input is never negative, True for the weights that lower its output.

    The output is that of the batch norm that reads the layer's own, if there is one. The head has
    no units that could be dead.
    """
    weights = {name: w for name, w in prunable(model).items() if not name.startswith("head.")}
    owners = {name.rpartition(".")[0]: name for name in weights}
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, BatchNorm) or (name in owners and isinstance(layer, StreamLayer))
    }
    least: dict[str, float] = {}
    gains: dict[str, Tensor] = {}
    with Taps(layers) as taps:
        for _, features in examples:
            model.score(features)
            calls = taps.take()
            makers = {id(y.x): name for name, _, _, y in calls if name in owners}
            for name, layer, (c, *_), _ in calls:
                if name in owners:
                    least[name] = min(least.get(name, 0.0), float(c.masked.min()))
                elif isinstance(layer, BatchNorm) and id(c.x) in makers:
                    gains[makers[id(c.x)]] = layer.weight
    found = {}
    for name, value in least.items():
        if value >= 0:
            weight = weights[owners[name]]
            gain = gains.get(name, weight.new_ones(len(weight)))
            found[owners[name]] = weight * gain.view(-1, *[1] * (weight.ndim - 1)) < 0
    return found
