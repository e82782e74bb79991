"""Training of matrices by a sequence of low-rank updates."""

import math

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from speechkit.data import UtteranceDataset
from speechkit.errors import ComponentError, TrainingError
from speechkit.models import Model
from speechkit.models.inits import drawn_weights
from speechkit.train import Method


class ReLoRA(Method, nn.Module):
    """Trains A and B instead of the encoder's matrices: W = base + (alpha / rank) · B A.

    W `[N, M]` are the encoder's 1×1 and linear layers with more than `rank` inputs and outputs;
    A `[rank, M]`, B `[N, rank]`. Everything else is trained as usual, and so is W in the first
    `warm` steps. Then, and after each `every` further steps, base ← W, A is drawn anew, B ← 0, and
    the optimizer's averages exp_avg and exp_avg_sq of both ← 0. So the rank of W's change may grow
    by `rank` each time. `every=null` is LoRA. Use it with `schedule=jagged`.
    Source: Lialin et al., arXiv:2307.05695.

    Raises TrainingError if the encoder has no such layer.
    """

    def __init__(
        self, rank: int = 32, alpha: float = 32.0, every: int | None = 1000, warm: int = 0
    ) -> None:
        if rank < 1 or warm < 0 or (every is not None and every < 1):
            raise ComponentError(
                f"method relora: rank={rank}, every={every}, warm={warm}; give rank from 1 up, "
                "every from 1 up or null, warm from 0 up"
            )
        super().__init__()
        self.rank, self.alpha, self.every, self.warm = rank, alpha, every, warm

    def start(self, model: Model, dataset: UtteranceDataset) -> None:
        """Makes A and B for each matrix."""
        generator = self.generator(0)
        updates = [
            LowRank(matrix, self.rank, self.alpha / self.rank, generator)
            for matrix in self._matrices(model)
        ]
        if not updates:
            raise TrainingError(
                f"method relora: rank={self.rank}, and the encoder has no 1×1 layer with more "
                "inputs and outputs; give a smaller rank"
            )
        self.updates = nn.ModuleList(updates)

    def before_step(self, model: Model, step: int) -> None:
        """Computes the gradients of A and B and takes that of W away."""
        if step > self.warm:
            for update, matrix in self._pairs(model):
                update.take_gradient(matrix)

    def after_step(self, model: Model, step: int, optimizer: Optimizer) -> None:
        """Computes W; begins another update where one is due."""
        since = step - self.warm
        if since > 0:
            for update, matrix in self._pairs(model):
                update.write(matrix)
        if since == 0 or (since > 0 and self.every and since % self.every == 0):
            generator = self.generator(step, next(model.parameters()).device)
            for update, matrix in self._pairs(model):
                update.restart(matrix, generator, optimizer)

    def _matrices(self, model: Model) -> list[Tensor]:
        return [
            weight
            for weight in drawn_weights(model.encoder)
            if weight[0, 0].numel() == 1 and min(weight.shape[:2]) > self.rank
        ]

    def _pairs(self, model: Model) -> "list[tuple[LowRank, Tensor]]":
        return list(zip(self.updates, self._matrices(model), strict=True))  # type: ignore[arg-type]


class LowRank(nn.Module):
    """W = base + scale · B A, where A is drawn as linear layers of torch are, and B = 0 at first.

    Shape: W `[N, M]` or `[N, M, 1]`, A `[rank, M]`, B `[N, rank]`.
    """

    base: Tensor

    def __init__(self, matrix: Tensor, rank: int, scale: float, generator: Generator) -> None:
        super().__init__()
        outputs, inputs = matrix.shape[:2]
        self.scale = scale
        self.register_buffer("base", matrix.detach().clone())
        self.a = nn.Parameter(matrix.new_empty(rank, inputs))
        self.b = nn.Parameter(matrix.new_zeros(outputs, rank))
        _draw(self.a, generator)

    @torch.no_grad()
    def take_gradient(self, matrix: Tensor) -> None:
        """Sets the gradients of A and B to those that follow from that of W, which becomes None."""
        if matrix.grad is not None:
            gradient = matrix.grad.flatten(1)
            self.a.grad = self.scale * (self.b.T @ gradient)
            self.b.grad = self.scale * (gradient @ self.a.T)
            matrix.grad = None

    @torch.no_grad()
    def write(self, matrix: Tensor) -> None:
        """Sets W."""
        matrix.copy_(self.base + self.scale * (self.b @ self.a).view_as(matrix))

    @torch.no_grad()
    def restart(self, matrix: Tensor, generator: Generator, optimizer: Optimizer) -> None:
        """Begins another update from W, which stays as it is."""
        self.base.copy_(matrix)
        _draw(self.a, generator)
        self.b.zero_()
        for parameter in (self.a, self.b):
            state = optimizer.state.get(parameter, {})
            for name in {"exp_avg", "exp_avg_sq"} & state.keys():
                state[name].zero_()
        # from here on the optimizer does not train W
        optimizer.state.pop(matrix, None)


def _draw(a: Tensor, generator: Generator) -> None:
    nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=generator)
