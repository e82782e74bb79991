"""Training of pruned models."""

from collections.abc import Callable

import torch
from torch.optim import Optimizer

from speechkit.errors import TrainingError
from speechkit.models import Model
from speechkit.train import Method
from speechkit_compression.weights import prunable


class KeepZeros(Method):
    """W = mask · W in every step, where the mask is 0 where W is: pruned weights stay 0.

    It is as if the layers computed with mask · W: gradients of pruned weights are 0 too, so that
    they have no part in `clip_norm`. The zeros are in the weights, so averaged weights and saved
    ones have them, and there is no other state. W are the weights that the transform `magnitude`
    can prune, of all its targets. Source: Darji, arXiv:2407.20601.

    Raises TrainingError if no weight is 0: the model was not pruned.
    """

    def gradients(self, again: Callable[[], float], model: Model, step: int) -> float:
        """Sets the gradients of pruned weights to 0."""
        weights = prunable(model).values()
        self.pruned = [(weight, weight == 0) for weight in weights]
        if not any(mask.any() for _, mask in self.pruned):
            raise TrainingError(
                "method keep_zeros: no weight of the model is 0; give start_from=FOLDER of a model "
                "that the transform magnitude or ap has pruned"
            )
        loss = again()
        for weight, mask in self.pruned:
            if weight.grad is not None:
                weight.grad.masked_fill_(mask, 0)
        return loss

    @torch.no_grad()
    def after_step(self, model: Model, step: int, optimizer: Optimizer) -> None:
        """Sets the weights to 0 that were so before the step."""
        for weight, mask in self.pruned:
            weight.masked_fill_(mask, 0)
