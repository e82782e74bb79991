"""A loss on attention weights, for weights that no softmax makes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from speechkit.data import Batch, UtteranceDataset
from speechkit.errors import ComponentError, TrainingError
from speechkit.models import Model, Output
from speechkit.nn import Taps
from speechkit.train import Method
from speechkit_mixers.attention import Weights

LEAST = 1e-6
"""The least sum of a row's weights that counts."""


class AttentionReg(Method):
    """weight · mean(|ln Σ_j A_tj| + max(H(A_t / Σ_j A_tj) − margin · ln n_t, 0)).

    The mean is over the valid frames t, the heads and the layers of `attention`; n_t is the number
    of frames that t reads and H the entropy. So the weights of a frame sum to about 1 without a
    softmax, and are not spread over all frames. Shen et al., arXiv:2302.06461.
    """

    def __init__(self, weight: float = 0.1, margin: float = 0.7) -> None:
        if not weight >= 0 or not 0 <= margin <= 1:
            raise ComponentError(
                f"method attention_reg: weight={weight}, margin={margin}; give a weight from 0 up "
                "and a margin from 0 to 1"
            )
        self.weight, self.margin = weight, margin

    def start(self, model: Model, dataset: UtteranceDataset) -> None:
        """Finds the layers."""
        layers = {n: layer for n, layer in model.named_modules() if isinstance(layer, Weights)}
        if not layers:
            raise TrainingError(
                f"{self.component}: the model has no attention; give mixer=attention"
            )
        self.taps = Taps(layers, training_only=True)

    def extra_loss(self, batch: Batch, output: Output, *features: Any) -> Tensor | None:
        """The loss of each utterance, `[B]`."""
        calls = self.taps.take()
        if not self.weight:
            return None
        losses = [row_loss(call.output, call.args[1], self.margin) for call in calls]
        return self.weight * torch.stack(losses).mean(0)


def row_loss(a: Tensor, allowed: Tensor, margin: float) -> Tensor:
    """The loss of each utterance for weights `[B, …, H, Q, K]`, `[B]`; rows without keys are none.

    `allowed` is a bool that broadcasts to them, and is equal for all heads.
    """
    a = a.float()
    sums = a.sum(-1).clamp(min=LEAST)
    p = a / sums.unsqueeze(-1)
    entropy = -(p * p.clamp(min=LEAST).log()).sum(-1)
    n = allowed.sum(-1).expand_as(sums)
    loss = sums.log().abs() + (entropy - margin * n.clamp(min=1).log()).relu()
    real = n > 0
    total = torch.where(real, loss, 0).flatten(1).sum(1)
    return total / real.flatten(1).sum(1).clamp(min=1)
