"""Smooth elementwise functions. Shape of all: `[B, C, T]` → the same."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.nn import Elementwise
from speechkit_activations.numbers import (
    before_softplus,
    beside,
    must_be_positive,
    number,
    positive,
)


class SmeLU(nn.Module):
    """ReLU with a parabola around zero: ReLU averaged over [x − beta, x + beta].

        y = 0 for x ≤ −beta,  (x + beta)² / (4 beta) between,  x for x ≥ beta

    y(0) = beta / 4. A learned beta is softplus(ρ), for the layer or for each channel.
    Shamir et al., arXiv:2010.09931.
    """

    undecayed = ("raw",)
    expression = "where(x >= beta, x, max(x + beta, 0) ** 2 / (4 * beta))"

    def __init__(
        self, channels: int, beta: float = 1.0, learn: bool = False, per_channel: bool = False
    ) -> None:
        super().__init__()
        must_be_positive(beta=beta)
        self.raw = number(before_softplus(beta) if learn else beta, channels, learn, per_channel)

    @property
    def beta(self) -> float | Tensor:
        """Half the width of the parabola."""
        return positive(self.raw)

    def forward(self, x: Tensor) -> Tensor:
        beta = beside(self.beta, x)
        slope = ((x + beta) / (2 * beta)).clamp(0, 1)
        return x * slope + beta * slope * (1 - slope)


class GSmeLU(nn.Module):
    """Two lines of any slopes, joined by a parabola on [−alpha, beta].

        y = g_minus x + t                                              x ≤ −alpha
        y = g_plus x + t + (g_plus − g_minus) (alpha − beta) / 2       x ≥ beta

    With alpha = beta, slopes 0 and 1 and t = 0 it is SmeLU. Shamir et al., arXiv:2010.09931; the
    parabola follows from equal value and slope at both joints.
    """

    expression = (
        "g_minus * x + t + (g_plus - g_minus) * where(x >= beta, x + (alpha - beta) / 2,"
        " max(x + alpha, 0) ** 2 / (2 * (alpha + beta)))"
    )

    def __init__(
        self,
        channels: int,
        alpha: float = 1.0,
        beta: float = 1.0,
        g_minus: float = 0.0,
        g_plus: float = 1.0,
        t: float = 0.0,
    ) -> None:
        super().__init__()
        if not alpha + beta > 0:
            raise ValueError(f"alpha={alpha}, beta={beta}: give numbers with alpha + beta above 0")
        self.alpha, self.beta, self.g_minus, self.g_plus, self.t = alpha, beta, g_minus, g_plus, t

    def forward(self, x: Tensor) -> Tensor:
        width = self.alpha + self.beta
        above = ((x + self.alpha) / width).clamp(0, 1)
        # the integral of the share `above` of the second slope
        rise = above * (x + self.alpha) - above * above * (width / 2)
        return self.g_minus * x + self.t + (self.g_plus - self.g_minus) * rise


class GoLU(Elementwise):
    """y = alpha · x · exp(−beta · exp(−gamma · x)): x gated by the Gompertz curve.

    All three are 1 and fixed in the paper. x is clamped in the gate where the gate would underflow
    in float64, since the gradient would be 0 · ∞ there. Das et al., arXiv:2502.03654.
    """

    expression = "alpha * x * exp(-beta * exp(-gamma * max(x, lowest)))"

    def __init__(
        self, channels: int, alpha: float = 1.0, beta: float = 1.0, gamma: float = 1.0
    ) -> None:
        super().__init__()
        must_be_positive(beta=beta, gamma=gamma)
        self.alpha, self.beta, self.gamma = alpha, beta, gamma
        self.lowest = -math.log(1000 / beta) / gamma


class Swish(Elementwise):
    """y = x · sigmoid(beta · x), with a fixed beta or one learned for the layer or each channel.

    Ramachandran et al., arXiv:1710.05941.
    """

    undecayed = ("beta",)
    expression = "x * sigmoid(beta * x)"

    def __init__(
        self, channels: int, beta: float = 1.0, learn: bool = False, per_channel: bool = False
    ) -> None:
        super().__init__()
        self.beta = number(beta, channels, learn, per_channel)


class SAU(Elementwise):
    """Leaky ReLU of slope alpha, convolved with a Gaussian of standard deviation sigma.

        y = x ((1 + alpha) + (1 − alpha) erf(x / (√2 sigma))) / 2
            + (1 − alpha) sigma / √(2π) · exp(−x² / (2 sigma²))

    alpha is learned unless `learn` is off. y(0) = (1 − alpha) sigma / √(2π). The initial alpha 0.15
    and the sigma are choices of this package. Biswas et al., arXiv:2109.13210.
    """

    undecayed = ("alpha",)
    expression = (
        "0.5 * x * (1 + alpha + (1 - alpha) * erf(x / sigma / sqrt(2)))"
        " + (1 - alpha) * (sigma / sqrt(2 * pi) * exp(-0.5 * (x / sigma) ** 2))"
    )

    def __init__(
        self,
        channels: int,
        alpha: float = 0.15,
        sigma: float = 0.5,
        learn: bool = True,
        per_channel: bool = False,
    ) -> None:
        super().__init__()
        must_be_positive(sigma=sigma)
        self.alpha = number(alpha, channels, learn, per_channel)
        self.sigma = sigma


class ReluGelu(nn.Module):
    """y = (1 − lam) · relu_a(x) + lam · x (1 + erf(scale · x / √2)) / 2, from ReLU to GELU.

    relu_a(x) = max(x, a x) for a < 1. Shah & Youngblood, arXiv:2402.02593.
    """

    expression = (
        "(1 - lam) * where(x > 0, x, a * x) + lam * (0.5 * x * (1 + erf(x * (scale / sqrt(2)))))"
    )

    def __init__(self, channels: int, lam: float = 1.0, scale: float = 1.0, a: float = 0.0) -> None:
        super().__init__()
        self.lam, self.scale, self.a = lam, scale, a

    def forward(self, x: Tensor) -> Tensor:
        gelu = 0.5 * x * (1 + torch.erf(x * (self.scale / math.sqrt(2))))
        return (1 - self.lam) * F.leaky_relu(x, self.a) + self.lam * gelu


class ReluSilu(Elementwise):
    """y = (1 − lam) · max(x, 0) + lam · x sigmoid(x). Shah & Youngblood, arXiv:2402.02593."""

    expression = "(1 - lam) * relu(x) + lam * silu(x)"

    def __init__(self, channels: int, lam: float = 1.0) -> None:
        super().__init__()
        self.lam = lam


class GCU(Elementwise):
    """y = x · cos(x), the growing cosine unit. Noel et al., arXiv:2108.12943."""

    expression = "x * cos(x)"

    def __init__(self, channels: int) -> None:
        super().__init__()


def mish(channels: int) -> nn.Module:
    """y = x · tanh(softplus(x)). Misra, arXiv:1908.08681."""
    return nn.Mish()
