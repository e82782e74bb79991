"""Gradient descent with normal noise, whose variance a temperature sets."""

import math
from collections.abc import Callable

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from speechkit.data import seeded_generator
from speechkit.nn.collectives import spread_as


class NoisySGD(Optimizer):
    """w = w − lr (g + weight_decay · w) + √(2 lr T) ξ, ξ ~ N(0, 1) for every weight and step.

    T is the `temperature`, 1 / β in the paper. For small lr the weights are in the end distributed
    as exp(−(L + weight_decay ‖w‖² / 2) / T). With T = 0 there is no noise. ξ follows from `seed`
    and the number of the step, which is saved with the run; all processes draw the same. Weights
    without a gradient do not move. Raises ValueError for a number below 0. Source: Shevchenko
    et al., arXiv:2111.02278.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-2,
        temperature: float = 1e-6,
        weight_decay: float = 0.0,
        seed: int = 0,
    ) -> None:
        settings = {"lr": lr, "temperature": temperature, "weight_decay": weight_decay}
        for name, value in settings.items():
            if not value >= 0:
                raise ValueError(f"{name}={value}; give a number from 0 up")
        super().__init__(params, {**settings, "step": 0})
        self.seed = seed

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Updates every tensor that has a gradient; returns what `closure` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        weights = [w for group in self.param_groups for w in group["params"] if w.grad is not None]
        for group in self.param_groups:
            group["step"] += 1
        if not weights:
            return loss
        generator = seeded_generator(f"{self.seed}/{group['step']}/noisy_sgd", weights[0].device)
        for group in self.param_groups:
            deviation = math.sqrt(2 * group["lr"] * group["temperature"])
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                descent = weight.grad.add(weight, alpha=group["weight_decay"])
                weight.add_(descent, alpha=-group["lr"])
                if deviation:
                    # of the whole tensor, of which a process may have a part
                    noise = torch.randn(
                        weight.shape, generator=generator, dtype=weight.dtype, device=weight.device
                    )
                    weight.add_(spread_as(noise, weight), alpha=deviation)
        return loss
