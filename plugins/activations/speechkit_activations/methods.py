"""Training methods that some of the activations need."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from speechkit.data import Batch, UtteranceDataset
from speechkit.errors import TrainingError
from speechkit.models import Model, Output
from speechkit.nn import Chunk, FrameWise, Taps
from speechkit.train import Method
from speechkit_activations.adaptive import ReluOrPoly, VeLU
from speechkit_activations.sparse import FATReLU


@dataclass
class Transport(Method):
    """Adds lambda_ot · W² of each `velu` with ot=loss to the loss. arXiv:2504.15051."""

    layers: list[VeLU] = field(default_factory=list, init=False, repr=False)

    def start(self, model: Model, dataset: UtteranceDataset) -> None:
        """Finds the activations."""
        self.layers = [m for m in model.modules() if isinstance(m, VeLU) and m.ot == "loss"]
        if not self.layers:
            raise TrainingError("method transport needs activation=velu with ot=loss")

    def extra_loss(self, batch: Batch, output: Output) -> Tensor:
        """The sum of the terms, for each utterance `[B]`."""
        terms = [term for layer in self.layers if (term := layer.aux_loss()) is not None]
        return torch.stack(terms).sum().expand(len(output.scores))


@dataclass
class ReluBudget(Method):
    """weight · max(share of channels that keep ReLU − budget, 0) for nets of `relu_or_poly`.

    `budget` is the share that may stay. As soon as it is reached, the switches are fixed. Add the
    method `distill` for the paper's teacher. Peng et al., arXiv:2308.10134.
    """

    budget: float = 0.5
    weight: float = 100.0
    layers: list[ReluOrPoly] = field(default_factory=list, init=False, repr=False)

    def start(self, model: Model, dataset: UtteranceDataset) -> None:
        """Finds the activations."""
        self.layers = [m for m in model.modules() if isinstance(m, ReluOrPoly)]
        if not self.layers:
            raise TrainingError("method relu_budget needs activation=relu_or_poly")

    def extra_loss(self, batch: Batch, output: Output) -> Tensor:
        """The penalty, for each utterance `[B]`."""
        over = self.share() - self.budget
        if over <= 0:
            for layer in self.layers:
                layer.freeze()
        return (self.weight * over.clamp(min=0)).expand(len(output.scores))

    def share(self) -> Tensor:
        """The share of channels whose switch is on, with a gradient for the logits."""
        return torch.cat([layer.switches() for layer in self.layers]).mean()


@dataclass
class ProSparse(Method):
    """λ · Σ_layers of the L1 norm of the output of each `fatrelu`, averaged over valid frames.

    λ is `factors[0]` up to call `ends[0]` in training and rises to `factors[i]` by call `ends[i]`
    (`rising`); both are numbers separated by spaces. The calls are counted by
    `fatrelu:relu_calls=N` and saved, so that a resumed run continues the count. Song et al.,
    arXiv:2402.13516.
    """

    factors: str | float
    ends: str | float
    table: list[tuple[float, float]] = field(init=False, repr=False)
    first: FATReLU = field(init=False, repr=False)
    taps: Taps = field(init=False, repr=False)

    def __post_init__(self) -> None:
        factors, ends = (
            [float(x) for x in str(text).split()] for text in (self.factors, self.ends)
        )
        if len(factors) != len(ends) or not ends or ends != sorted(set(ends)):
            raise TrainingError(
                f"factors={self.factors!r}, ends={self.ends!r}: give as many of both, ends rising"
            )
        self.table = list(zip(factors, ends, strict=True))

    def start(self, model: Model, dataset: UtteranceDataset) -> None:
        """Records the output of the activations from now on."""
        layers = {name: m for name, m in model.named_modules() if isinstance(m, FrameWise)}
        wanted = {
            name: layer.module
            for name, layer in layers.items()
            if isinstance(layer.module, FATReLU) and layer.module.relu_calls
        }
        if not wanted:
            raise TrainingError("method prosparse needs activation=fatrelu with relu_calls=N")
        self.first = next(iter(wanted.values()))
        self.taps = Taps({name: layers[name] for name in wanted}, training_only=True)

    def extra_loss(self, batch: Batch, output: Output) -> Tensor:
        """The penalty, for each utterance `[B]`."""
        terms = [_mean_size(call.output) for call in self.taps.take()]
        factor = rising(int(self.first.calls), self.table)
        return (factor * torch.stack(terms).sum()).expand(len(output.scores))


def _mean_size(c: Chunk) -> Tensor:
    """Σ_channels |x|, averaged over valid frames."""
    size = c.masked.abs().sum(1, dtype=torch.promote_types(c.x.dtype, torch.float32))
    return size.sum() / c.valid.sum().clamp(min=1)


def rising(step: float, table: Sequence[tuple[float, float]]) -> float:
    """λ at a step for a table of λ_i and T_i, with half a cosine period between two rows.

        λ_{i−1} + (λ_i − λ_{i−1}) (1 − cos(π (step − T_{i−1}) / (T_i − T_{i−1}))) / 2

    Before T_1 it is λ_1; after the last row it is the last λ.
    """
    for (low, begin), (high, end) in pairwise(table):
        if step < end:
            share = max(step - begin, 0) / (end - begin)
            return low + (high - low) * (1 - math.cos(math.pi * share)) / 2
    return table[-1][0]
