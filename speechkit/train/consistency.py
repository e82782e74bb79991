"""CR-CTC: each of two augmented views is trained towards the other's output."""

from dataclasses import dataclass

import torch
from torch import Tensor

from speechkit.data import Batch, UtteranceDataset
from speechkit.errors import TrainingError
from speechkit.models import Model, Output
from speechkit.train.method import Method, check_decodes


@dataclass
class Consistency(Method):
    """weight · Σ_t KL(other_t ‖ own_t) for each of an utterance's two views.

    Both views are of the same recording, each with its own masks and dropout; `other` gets no
    gradient. The model learns to predict what one view masks and the other shows, and its
    posteriors become less peaked. A step takes twice the time. Masks should be larger than without
    this method: the paper uses `weight` 0.2 and 2.5 times as much time masking. Source: Yao et al.,
    CR-CTC, arXiv:2410.05101.
    """

    weight: float = 0.2
    views = 2

    def start(self, model: Model, dataset: UtteranceDataset) -> None:
        """Checks the task."""
        check_decodes("consistency", model)

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
