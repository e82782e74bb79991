"""Consistency: what is hidden from a model in one hearing, it learns from another hearing."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from speechkit.data import Batch, UtteranceDataset
from speechkit.errors import TrainingError
from speechkit.models import Model, Output


@dataclass
class Consistency:
    """weight · Σ_t KL(other_t ‖ own_t) for each of an utterance's two hearings.

    Both are of the same recording, each with masks and dropout of its own; `other` gets no
    gradient. Where one hearing hides what the other hears, the model learns to fill in, and its
    posteriors grow less peaked. A step costs twice as much. Masks should be larger than without;
    the paper has `weight` 0.2 and two and a half times as much time masked. It takes models with
    a score per frame. Source: Yao et al., CR-CTC, arXiv:2410.05101.
    """

    weight: float = 0.2
    views: ClassVar[int] = 2

    def start(self, model: Model, dataset: UtteranceDataset) -> None:
        """Nothing is needed beforehand."""

    def extra_loss(self, batch: Batch, output: Output) -> Tensor:
        """The losses `[2B]`, of both hearings."""
        own = output.scores
        first, second = output.lengths.chunk(2)
        for row in (first != second).nonzero().flatten().tolist():
            raise TrainingError(
                f"{batch.names[row]}: heard twice, it has {first[row]} and {second[row]} frames; "
                "leave out augmentations of features that change the duration"
            )
        other = own.detach().roll(len(own) // 2, dims=0)
        valid = torch.arange(own.shape[1], device=own.device) < output.lengths[:, None]
        divergence = (other.exp() * (other - own)).sum(2)
        return self.weight * divergence.masked_fill(~valid, 0.0).sum(1)
