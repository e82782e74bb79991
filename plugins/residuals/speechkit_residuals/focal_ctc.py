"""The loss of Easter2.0, arXiv:2205.14879."""

from dataclasses import dataclass

import torch
from torch import Tensor

from speechkit.errors import ComponentError
from speechkit.train.losses import CTC

LEAST = 1e-6
"""A smaller 1 − p counts as this, so that the gradient of its power is finite."""


@dataclass(frozen=True)
class FocalCTC:
    """α (1 − p)^γ L with the CTC loss L = −log p: utterances of high probability count less.

    Shape: as `speechkit.train.losses.CTC`.
    """

    alpha: float = 0.25
    gamma: float = 0.5

    def __post_init__(self) -> None:
        if self.alpha <= 0 or self.gamma < 0:
            raise ComponentError(
                f"loss focal_ctc: alpha={self.alpha}, gamma={self.gamma}; give an alpha above 0 "
                "and a gamma from 0"
            )

    def __call__(
        self, scores: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor
    ) -> Tensor:
        loss = CTC()(scores, lengths, targets, target_lengths)
        doubt = (-torch.expm1(-loss)).clamp(min=LEAST)
        return self.alpha * doubt**self.gamma * loss
