"""Optimisers; each parameter is a single number, so that `novograd:lr=0.05` can set it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.optimizer import ParamsT

from speechkit.nn.exempt import exempt


class NovoGrad(Optimizer):
    """Momentum on gradients that are normalised tensor by tensor, with decoupled weight decay.

    For a tensor w with gradient g:

        n = ‖g‖²
        v = n while v is 0, then beta2·v + (1 − beta2)·n      one number per tensor
        d = g / (sqrt(v) + eps) + weight_decay·w              times (1 − beta1) if grad_averaging
        m = beta1·m + d
        w = w − lr·m

    State per tensor: exp_avg (m, as w) and exp_avg_sq (v, 0-dim). Ginsburg et al.,
    arXiv:1905.11286.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.95, 0.98),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        grad_averaging: bool = False,
    ) -> None:
        for name, value in {"lr": lr, "eps": eps, "weight_decay": weight_decay}.items():
            if value < 0:
                raise ValueError(f"{name} {value}: give a number from 0 up")
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas {betas}: give numbers from 0 up to, not including, 1")
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "grad_averaging": grad_averaging,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Updates every tensor that has a gradient; returns what `closure` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, weight.grad, group)
        return loss

    def _update(self, weight: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state["exp_avg"] = torch.zeros_like(weight)
            state["exp_avg_sq"] = weight.new_zeros(())
        beta1, beta2 = group["betas"]
        m, v = state["exp_avg"], state["exp_avg_sq"]
        n = gradient.square().sum()
        # torch.where, not if: reading v would make the CPU wait for the GPU at every tensor
        v.copy_(torch.where(v == 0, n, beta2 * v + (1 - beta2) * n))
        direction = gradient / (v.sqrt() + group["eps"])
        direction.add_(weight, alpha=group["weight_decay"])
        m.mul_(beta1).add_(direction, alpha=1 - beta1 if group["grad_averaging"] else 1)
        weight.add_(m, alpha=-group["lr"])


def novograd(
    params: ParamsT,
    lr: float = 1e-3,
    beta1: float = 0.95,
    beta2: float = 0.98,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    grad_averaging: bool = False,
) -> NovoGrad:
    """NovoGrad with its betas as two parameters."""
    return NovoGrad(params, lr, (beta1, beta2), eps, weight_decay, grad_averaging)


def adamw(
    params: ParamsT,
    lr: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
) -> AdamW:
    """torch's AdamW with its betas as two parameters. Loshchilov & Hutter, arXiv:1711.05101."""
    return AdamW(params, lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay)


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Groups of a model's parameters: those with weight decay, and those that layers exempt.

    A layer names exempt parameters, or modules of them, in `undecayed`. These are slopes, gains and
    gates, where 0 is not the neutral value.
    """
    spared = exempt(model, "undecayed")
    groups: list[dict[str, Any]] = [{"params": []}, {"params": [], "weight_decay": 0.0}]
    for parameter in model.parameters():
        groups[id(parameter) in spared]["params"].append(parameter)
    return [group for group in groups if group["params"]]
