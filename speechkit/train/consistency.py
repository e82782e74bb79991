"""CR-CTC: each of two augmented views is trained towards the other's output."""

from dataclasses import dataclass

import torch
from torch import Tensor

from speechkit.data import Batch
from speechkit.errors import TrainingError
from speechkit.models import Output
from speechkit.train.method import Method


@dataclass
class Consistency(Method):
    """weight · Σ_t KL(other_t ‖ own_t) for each of an utterance's two views.

    Both are of the same recording, each with masks and dropout of its own; `other` gets no
    gradient. Where one view masks what the other shows, the model learns to fill in, and its
    posteriors grow less peaked. A step costs twice as much. Masks should be larger than without;
    the paper has `weight` 0.2 and two and a half times as much time masked. It takes models with
    a score per frame. Source: Yao et al., CR-CTC, arXiv:2410.05101.
    """

    weight: float = 0.2
    views = 2

    def extra_loss(self, batch: Batch, output: Output) -> Tensor:
        """The losses `[2B]`, of both views."""
        own = output.scores
        first, second = output.lengths.chunk(2)
        for row in (first != second).nonzero().flatten().tolist():
            raise TrainingError(
                f"{batch.names[row]}: its two views have {first[row]} and {second[row]} frames; "
                "leave out augmentations of features that change the duration"
            )
        other = own.detach().roll(len(own) // 2, dims=0)
        valid = torch.arange(own.shape[1], device=own.device) < output.lengths[:, None]
        divergence = (other.exp() * (other - own)).sum(2)
        return self.weight * divergence.masked_fill(~valid, 0.0).sum(1)
