"""Training methods that some of the activations need."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from speechkit.data import Batch, UtteranceDataset
from speechkit.errors import TrainingError
from speechkit.models import Model, Output
from speechkit_activations.adaptive import ReluOrPoly, VeLU


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
