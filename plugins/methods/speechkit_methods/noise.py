"""Noise on the gradients."""

from dataclasses import dataclass

import torch

from speechkit.errors import ComponentError
from speechkit.models import Model
from speechkit.train import Method


@dataclass
class GradientNoise(Method):
    """Adds numbers of N(0, eta / (1 + t)^gamma) to every clipped gradient, t = 0, 1, ...

    The paper has eta 0.01, 0.3 or 1 and gamma 0.55. Every process adds the same numbers.
    Source: Neelakantan et al., arXiv:1511.06807.
    """

    eta: float = 0.01
    gamma: float = 0.55

    def __post_init__(self) -> None:
        if not self.eta >= 0:
            raise ComponentError(f"method grad_noise: eta={self.eta}; give a number from 0 up")

    def before_step(self, model: Model, step: int) -> None:
        """Adds the noise."""
        deviation = (self.eta / step**self.gamma) ** 0.5
        found = [p.grad for p in model.parameters() if p.grad is not None]
        # adding 0 would turn -0.0 into 0.0
        if not found or not deviation:
            return
        generator = self.generator(step, found[0].device)
        for gradient in found:
            noise = torch.empty_like(gradient).normal_(generator=generator)
            gradient.add_(noise, alpha=deviation)
