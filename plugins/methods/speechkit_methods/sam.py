"""Sharpness-aware minimisation."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from speechkit.errors import ComponentError
from speechkit.models import Model
from speechkit.nn import still
from speechkit.train import Method


@dataclass
class SAM(Method):
    """The step uses the gradient at w + rho · g / ‖g‖, where g is the gradient at w.

    With `adaptive` it is that at w + rho · w² ⊙ g / ‖|w| ⊙ g‖, so that large weights move further.
    Both gradients are of the same batches with the same dropout. Running statistics and the
    reported loss are those at w. The norm is over all of the model's parameters. A step has two
    forward and two backward passes.
    Source: Foret et al., arXiv:2010.01412; adaptive: Kwon et al., arXiv:2102.11600.
    """

    rho: float = 0.05
    adaptive: bool = False

    def __post_init__(self) -> None:
        if not self.rho >= 0:
            raise ComponentError(f"method sam: rho={self.rho}; give a number from 0 up")

    def gradients(self, again: Callable[[], float], model: Model, step: int) -> float:
        """Computes the gradients twice, and leaves the second ones."""
        loss = again()
        moved = [(p, p.grad) for p in model.parameters() if p.grad is not None]
        weights = [parameter.detach().clone() for parameter, _ in moved]
        scales = [weight.abs() if self.adaptive else weight.new_ones(()) for weight in weights]
        slopes = [scale * gradient for scale, (_, gradient) in zip(scales, moved, strict=True)]
        norm = torch.nn.utils.get_total_norm(slopes)
        # in fp16 a gradient may overflow, and the optimizer then skips the step
        if not torch.isfinite(norm):
            return loss
        with torch.no_grad():
            for (parameter, _), scale, slope in zip(moved, scales, slopes, strict=True):
                parameter.add_(scale * slope * (self.rho / (norm + 1e-12)))
        with still(model):
            again()
        with torch.no_grad():
            for (parameter, _), weight in zip(moved, weights, strict=True):
                parameter.copy_(weight)
        return loss
