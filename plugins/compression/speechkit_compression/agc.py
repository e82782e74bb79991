"""Adaptive gradient clipping."""

from dataclasses import dataclass

import torch
from torch import Tensor

from speechkit.errors import ComponentError
from speechkit.models import Model
from speechkit.train import Method


@dataclass
class AdaptiveClipping(Method):
    """Shortens each gradient G that is long beside its weights W: ‖G‖ ≤ clip · max(‖W‖, eps).

    The norms are those of the rows of a matrix or of a convolution, all weights of one output, and
    those of a whole vector such as a bias. It comes after `clip_norm` of the run. Source: Brock et
    al., arXiv:2102.06171, which leaves out the last linear layer; A&B BNN, arXiv:2403.03739.
    """

    clip: float = 0.01
    eps: float = 1e-3

    def __post_init__(self) -> None:
        if not (self.clip > 0 and self.eps > 0):
            raise ComponentError(
                f"method agc: clip={self.clip}, eps={self.eps}; give numbers above 0"
            )

    @torch.no_grad()
    def before_step(self, model: Model, step: int) -> None:
        """Clips the gradients of all weights outside the head."""
        own = set(model.head.parameters())
        for parameter in model.parameters():
            if parameter.grad is not None and parameter not in own:
                longest = self.clip * _norms(parameter).clamp(min=self.eps)
                given = _norms(parameter.grad)
                # a factor of 1 leaves every bit as it is
                parameter.grad.mul_(torch.where(given > longest, longest / given, 1.0))


def _norms(x: Tensor) -> Tensor:
    """The norm of each row, or of a whole vector, in a shape that multiplies x."""
    inside = tuple(range(1, x.ndim)) if x.ndim > 1 else None
    norms: Tensor = torch.linalg.vector_norm(x, dim=inside, keepdim=True)
    return norms
