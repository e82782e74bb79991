"""Training methods that some of the activations need."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn

from speechkit.data import Batch, UtteranceDataset
from speechkit.errors import TrainingError
from speechkit.models import Model, Output
from speechkit.nn import Chunk, FrameWise
from speechkit_activations.adaptive import ReluOrPoly, VeLU
from speechkit_activations.sparse import FATReLU


@dataclass
class Transport:
    """Adds what each `velu` with ot=loss asks for: lambda_ot · W². arXiv:2504.15051."""

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
class ReluBudget:
    """weight · max(share of channels that keep ReLU − budget, 0) for nets of `relu_or_poly`.

    `budget` is the share that may stay. The first time it holds, the switches are fixed. Use
    `distill` beside it for the paper's teacher. Peng et al., arXiv:2308.10134.
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
        """The share of channels whose switch is on, which the logits learn from."""
        return torch.cat([layer.switches() for layer in self.layers]).mean()


@dataclass
class ProSparse:
    """λ · Σ_layers of the L1 norm of what each `fatrelu` gives, its mean over valid frames.

    λ is `factors[0]` up to call `ends[0]` in training and rises to `factors[i]` by call `ends[i]`
    (`rising`); both are numbers with spaces between. The calls are those that
    `fatrelu:relu_calls=N` counts and saves, so that a resumed run goes on where it was.
    Song et al., arXiv:2402.13516.
    """

    factors: str | float
    ends: str | float
    table: list[tuple[float, float]] = field(init=False, repr=False)
    layers: list[FATReLU] = field(default_factory=list, init=False, repr=False)
    terms: list[Tensor] = field(default_factory=list, init=False, repr=False)

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
        """Listens to the activations."""
        for layer in model.modules():
            module = layer.module if isinstance(layer, FrameWise) else None
            if isinstance(module, FATReLU) and module.relu_calls:
                self.layers.append(module)
                layer.register_forward_hook(self._hear)
        if not self.layers:
            raise TrainingError("method prosparse needs activation=fatrelu with relu_calls=N")

    def extra_loss(self, batch: Batch, output: Output) -> Tensor:
        """The penalty, for each utterance `[B]`."""
        terms, self.terms = self.terms, []
        factor = rising(int(self.layers[0].calls), self.table)
        return (factor * torch.stack(terms).sum()).expand(len(output.scores))

    def _hear(self, layer: nn.Module, given: object, made: Chunk) -> None:
        if layer.training:
            size = made.masked.abs().sum(1, dtype=torch.promote_types(made.x.dtype, torch.float32))
            self.terms.append(size.sum() / made.valid.sum().clamp(min=1))


def rising(step: float, table: Sequence[tuple[float, float]]) -> float:
    """λ at a step for a table of λ_i and T_i, as half a period of a cosine between its rows.

        λ_{i−1} + (λ_i − λ_{i−1}) (1 − cos(π (step − T_{i−1}) / (T_i − T_{i−1}))) / 2

    Before T_1 it is λ_1, after the last row that row's.
    """
    for (low, begin), (high, end) in pairwise(table):
        if step < end:
            share = max(step - begin, 0) / (end - begin)
            return low + (high - low) * (1 - math.cos(math.pi * share)) / 2
    return table[-1][0]
