"""Weights that are computed from a few trained numbers."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from speechkit.data import UtteranceDataset, seeded_generator
from speechkit.errors import ComponentError
from speechkit.models import Model
from speechkit.models.inits import drawn_weights
from speechkit.train import Method

ROWS = 1024
"""The rows of the random matrix that are in memory at once."""


class Hypernet(Method, nn.Module):
    """Trains n numbers z instead of the weights: W = start + scale · P z, where z = 0 at first.

    W are all N weights that an init draws; biases, norms and other parameters are trained as usual.
    P `[N, n]`, of N(0, 1), follows from `seed`; it is drawn again whenever it is needed and never
    stored. In each layer scale = r √(3 / n), where r is the root mean square of the layer's start:
    with z of U(−1, 1) the variance of scale · P z is r². The gradient of z is Pᵀ (scale · dL/dW).
    Source: Gordon et al., arXiv:2403.19163. There weights are computed from z alone; the start, the
    weights that the run begins with, is ours.
    """

    initial: Tensor

    def __init__(self, n: int = 512, seed: int = 0) -> None:
        if n < 1:
            raise ComponentError(f"method hypernet: n={n}; give a number from 1 up")
        super().__init__()
        self.seed = seed
        self.z = nn.Parameter(torch.zeros(n))

    def start(self, model: Model, dataset: UtteranceDataset) -> None:
        """Keeps the weights as they are at z = 0."""
        self.register_buffer("initial", weight_vector(model))

    @torch.no_grad()
    def before_step(self, model: Model, step: int) -> None:
        """Computes the gradient of z and takes those of the weights away."""
        weights = list(drawn_weights(model))
        parts = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
        scale = _scale(weights, self.initial, self.z)
        scaled = scale * torch.cat([part.flatten() for part in parts])
        self.z.grad = torch.zeros_like(self.z)
        for rows, p in _matrix(len(scaled), self.z, self.seed):
            self.z.grad += p.T @ scaled[rows]
        for weight in weights:
            weight.grad = None

    def after_step(self, model: Model, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Computes the weights."""
        generate(model, self.initial, self.z, self.seed)


def weight_vector(model: nn.Module) -> Tensor:
    """The weights `[N]` of a model that `generate` sets, in the order of the state dict."""
    return torch.cat([weight.detach().flatten() for weight in drawn_weights(model)])


@torch.no_grad()
def generate(model: nn.Module, start: Tensor, z: Tensor, seed: int) -> None:
    """Sets the weights of a model to start + scale · P z, for `start [N]` and `z [n]`."""
    weights = list(drawn_weights(model))
    products = torch.cat([p @ z for _, p in _matrix(len(start), z, seed)])
    values = start + _scale(weights, start, z) * products
    for weight, part in zip(weights, values.split([w.numel() for w in weights]), strict=True):
        weight.copy_(part.view_as(weight))


def _matrix(count: int, z: Tensor, seed: int) -> Iterator[tuple[slice, Tensor]]:
    """The `count` rows of P, some at a time: which they are, and their values `[rows, n]`."""
    generator = seeded_generator(str(seed))
    for begin in range(0, count, ROWS):
        rows = slice(begin, min(begin + ROWS, count))
        # numbers of a GPU's generator would differ from those of a CPU's
        p = torch.empty(rows.stop - begin, len(z)).normal_(generator=generator)
        yield rows, p.to(z)


def _scale(weights: list[Tensor], start: Tensor, z: Tensor) -> Tensor:
    """The factor `[N]` of each weight."""
    parts = start.split([weight.numel() for weight in weights])
    sizes = torch.cat([part.square().mean().sqrt().expand_as(part) for part in parts])
    return sizes * math.sqrt(3 / len(z))
