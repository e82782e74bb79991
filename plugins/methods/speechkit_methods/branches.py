"""Weight decay of whole branches, and the rank that it leaves."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from speechkit.data import UtteranceDataset
from speechkit.errors import ComponentError, TrainingError
from speechkit.models import Model
from speechkit.nn import describes
from speechkit.probes import Examples
from speechkit.train import Method


def branch_power(branches: Iterable[Sequence[Tensor]]) -> Tensor:
    """Σ_i 1/L Σ_l ‖W_il‖^L with the Frobenius norm, over branches i of L weights l each.

    For linear branches whose outputs add up to W x, the least that it can be is the sum of the
    singular values of W, if there are enough branches. Ergen & Pilanci, arXiv:2110.06482.
    """
    norms = [torch.stack([torch.linalg.vector_norm(w) for w in branch]) for branch in branches]
    return torch.stack([(each ** len(each)).mean() for each in norms]).sum()


def bodies(model: Model) -> dict[str, list[nn.Parameter]]:
    """The weights of the body of each block: parameters `weight` of two or more dimensions."""
    found: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        body, inside, rest = name.partition(".body.")
        if inside and rest.rpartition(".")[2] == "weight" and parameter.ndim >= 2:
            found.setdefault(body, []).append(parameter)
    return found


@dataclass
class BranchPowerDecay(Method):
    """Adds weight · Σ_i 1/L_i Σ_l ‖W_il‖^L_i, over the bodies i of the model's blocks.

    The L_i weights of a body are those of its convolutions and 1×1 layers; a body of a depthwise
    convolution and a 1×1 layer has L = 2, which is weight decay as a loss. Ergen & Pilanci,
    arXiv:2110.06482, have it for branches that are added; to treat bodies as these is our choice.

    Raises TrainingError for a model whose blocks have no body.
    """

    weight: float = 1e-3
    weights: list[list[nn.Parameter]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise ComponentError(
                f"method branch_power_decay: weight={self.weight}; give a number from 0 up"
            )

    def start(self, model: Model, dataset: UtteranceDataset) -> None:
        """Finds the weights."""
        self.weights = list(bodies(model).values())
        if not self.weights:
            raise TrainingError(
                "method branch_power_decay: no block of the model has a body; give block=plain"
            )

    def gradients(self, again: Callable[[], float], model: Model, step: int) -> float:
        """Adds the gradient of the penalty, once for a step, and the penalty to the loss."""
        loss = again()
        if not self.weight:
            return loss
        weights = [weight for branch in self.weights for weight in branch if weight.requires_grad]
        penalty = self.weight * branch_power(self.weights)
        for weight, slope in zip(weights, torch.autograd.grad(penalty, weights), strict=True):
            weight.grad = slope if weight.grad is None else weight.grad + slope
        return loss + float(penalty.detach())


def effective_rank(values: Tensor) -> Tensor:
    """exp of the entropy of singular values that are divided by their sum: n for n equal ones.

    Roy & Vetterli, EUSIPCO 2007.
    """
    shares = values / values.sum().clamp(min=torch.finfo(values.dtype).tiny)
    rank: Tensor = torch.special.entr(shares).sum().exp()
    return rank


def weight_rank() -> Callable[[Model, Examples], dict[str, Tensor]]:
    """The probe: the effective rank of the matrix of each layer that has one.

    `NAME/rank` is exp of the entropy of the singular values, `NAME/values` `[min(C', C)]` are the
    singular values relative to the greatest, in falling order, and `rank` is the mean of the ranks
    divided by min(C', C). A convolution's matrix is `[C', C · K]`. The recordings do not matter.
    Ergen & Pilanci, arXiv:2110.06482, show that weight decay makes such ranks low.
    """

    @torch.no_grad()
    def look(model: Model, examples: Examples) -> dict[str, Tensor]:
        found, shares = {}, []
        for name, layer in model.named_modules():
            matrix = layer.matrix() if describes(layer, "matrix") else None
            if matrix is None:
                continue
            values = torch.linalg.svdvals(matrix[0].flatten(1).double())
            found[f"{name}/rank"] = effective_rank(values)
            found[f"{name}/values"] = values / values[0].clamp(min=1e-300)
            shares.append(found[f"{name}/rank"] / len(values))
        if not shares:
            raise ComponentError("probe weight_rank: no layer of the model has a matrix")
        return {"rank": torch.stack(shares).mean(), **found}

    return look
