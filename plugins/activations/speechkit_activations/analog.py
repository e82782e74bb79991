"""Hardware that computes with few levels and noise, as seen by an activation."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from speechkit.component import Spec
from speechkit.plugins import registry


class Analog(nn.Module):
    """An activation between two layers of analog hardware.

        noise → clamp to [−1, 1] → precision → activation → clamp → precision → noise

    The first three are the output side of the layer before, the last three the input side of the
    layer after. Precision is 2^bits − 1 levels in each half; the noise is Gaussian, of which the
    share `leakage` is larger than half a level. Gradients pass precision unchanged and end where
    the clamp does. The noise stays on in evaluation, as hardware's does, unless `noisy` is
    training. Noise of weights is not part of it. Shape: as the activation's.
    Shah & Youngblood, arXiv:2402.02593.
    """

    def __init__(
        self,
        channels: int,
        activation: str | dict[str, Any] = "gelu",
        bits: int = 4,
        leakage: float = 0.5,
        noisy: str = "always",
    ) -> None:
        super().__init__()
        if noisy not in ("always", "training"):
            raise ValueError(f"noisy={noisy!r}: give always or training")
        self.activation = registry().build("activation", Spec.parse(activation), channels)
        self.bits, self.sigma, self.noisy = bits, noise_sigma(bits, leakage), noisy

    def forward(self, x: Tensor) -> Tensor:
        x = quantize(self.disturb(x).clamp(-1, 1), self.bits)
        y: Tensor = self.activation(x)
        return self.disturb(quantize(y.clamp(-1, 1), self.bits))

    def disturb(self, x: Tensor) -> Tensor:
        """x with noise, where there is any."""
        if not self.training and self.noisy == "training":
            return x
        return x + self.sigma * torch.randn_like(x)


def quantize(x: Tensor, bits: int) -> Tensor:
    """sign(x) · ⌈|x| p − 1/2⌉ / p with p = 2^bits − 1; its gradient is 1."""
    levels = 2**bits - 1
    y = torch.sign(x) * torch.ceil(x.abs() * levels - 0.5) / levels
    return x + (y - x).detach()


def noise_sigma(bits: int, leakage: float) -> float:
    """The σ of a Gaussian of which the share `leakage` exceeds half of 1 / (2^bits − 1)."""
    if not 0 < leakage < 1:
        raise ValueError(f"leakage={leakage}: give a number between 0 and 1")
    inverse = torch.erfinv(torch.tensor(1 - leakage, dtype=torch.float64)).item()
    return 1 / (2 * (2**bits - 1) * math.sqrt(2) * inverse)
