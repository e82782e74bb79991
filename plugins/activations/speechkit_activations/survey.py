"""Functions of a survey that are neither in torch nor elsewhere in this package.

Dubey et al., arXiv:2109.14545. Shape of all: `[B, C, T]` → the same.
"""

import math

import torch
from torch import Tensor, nn

from speechkit.nn import Elementwise
from speechkit_activations.numbers import (
    before_softplus,
    beside,
    must_be_positive,
    number,
    positive,
)

PAU_TOP = (0.02979246, 0.61837738, 2.32335207, 3.05202660, 1.48548002, 0.25103717)
PAU_BOTTOM = (1.14201226, 4.39322834, 0.87154450, 0.34720652)
"""A rational function near the leaky ReLU of slope 0.01 on [−3, 3]."""


def sigmoid(channels: int) -> nn.Module:
    return nn.Sigmoid()


def tanh(channels: int) -> nn.Module:
    return nn.Tanh()


def lrelu(channels: int, slope: float = 0.01) -> nn.Module:
    return nn.LeakyReLU(slope)


def elu(channels: int, alpha: float = 1.0) -> nn.Module:
    return nn.ELU(alpha)


def selu(channels: int) -> nn.Module:
    return nn.SELU()


def celu(channels: int, alpha: float = 1.0) -> nn.Module:
    return nn.CELU(alpha)


def softplus(channels: int, beta: float = 1.0) -> nn.Module:
    return nn.Softplus(beta)


class Elliott(Elementwise):
    """y = x / (2 (1 + |x|)) + 1/2. Elliott, 1993."""

    expression = "0.5 * x / (1 + abs(x)) + 0.5"

    def __init__(self, channels: int) -> None:
        super().__init__()


class LiSHT(Elementwise):
    """y = x · tanh(x)."""

    expression = "x * tanh(x)"

    def __init__(self, channels: int) -> None:
        super().__init__()


class SRS(nn.Module):
    """y = x / (x / a + exp(−x / b)), the soft-root-sign.

    Its denominator has no zero if a > b / e. So both are learned as b = softplus(ρ) and a = b / e +
    softplus(κ), for each channel. The initial values a = 5 and b = 3 are choices of this package.
    Zhou et al., arXiv:2003.00547.
    """

    undecayed = ("rho", "kappa")
    expression = "x / (x / a + exp(-x / b))"

    def __init__(self, channels: int, a: float = 5.0, b: float = 3.0, learn: bool = True) -> None:
        super().__init__()
        must_be_positive(b=b)
        spare = a - b / math.e
        if not spare > 0:
            raise ValueError(f"a={a}, b={b}: give a above b / e = {b / math.e:.3g}")
        self.rho = number(before_softplus(b) if learn else b, channels, learn, True)
        self.kappa = number(before_softplus(spare) if learn else spare, channels, learn, True)

    @property
    def a(self) -> float | Tensor:
        """The divisor a of x."""
        return self.b / math.e + positive(self.kappa)

    @property
    def b(self) -> float | Tensor:
        """The divisor b of −x."""
        return positive(self.rho)

    def forward(self, x: Tensor) -> Tensor:
        a, b = beside(self.a, x), beside(self.b, x)
        # where x < 0, both sides are multiplied by exp(x / b), so that they are finite
        small = torch.exp(-x.abs() / b)
        above = x > 0
        return torch.where(above, x, x * small) / torch.where(
            above, x / a + small, x * small / a + 1
        )


class PAU(nn.Module):
    """y = Σ_{j ≤ 5} a_j x^j / (1 + |Σ_{1 ≤ k ≤ 4} b_k x^k|), learned for the layer.

    It starts near the leaky ReLU of slope 0.01. Molina et al., arXiv:1907.06732.
    """

    undecayed = ("top", "bottom")
    expression = (
        "(top[0] + x * (top[1] + x * (top[2] + x * (top[3] + x * (top[4] + x * top[5])))))"
        " / (1 + abs(x * (bottom[0] + x * (bottom[1] + x * (bottom[2] + x * bottom[3])))))"
    )

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.top = nn.Parameter(torch.tensor(PAU_TOP))
        self.bottom = nn.Parameter(torch.tensor(PAU_BOTTOM))

    def forward(self, x: Tensor) -> Tensor:
        top, bottom = self.top.to(x.dtype), self.bottom.to(x.dtype)
        return _polynomial(top, x) / (1 + (x * _polynomial(bottom, x)).abs())


class PDELU(nn.Module):
    """y = x for x > 0, otherwise alpha (max(1 + (1 − t) x, 0)^(1 / (1 − t)) − 1).

    alpha is learned for each channel. For t → 1 it is ELU.
    """

    undecayed = ("alpha",)
    expression = "where(x > 0, x, alpha * (pow(max(1 + (1 - t) * min(x, 0), 0), 1 / (1 - t)) - 1))"

    def __init__(
        self, channels: int, alpha: float = 1.0, t: float = 0.9, learn: bool = True
    ) -> None:
        super().__init__()
        if not 0 <= t < 1:
            raise ValueError(f"t={t}: give a number from 0 up to, not including, 1")
        self.alpha, self.t = number(alpha, channels, learn, True), t

    def forward(self, x: Tensor) -> Tensor:
        base = (1 + (1 - self.t) * x.clamp(max=0)).clamp(min=0)
        curve = beside(self.alpha, x) * (base ** (1 / (1 - self.t)) - 1)
        return torch.where(x > 0, x, curve)


def _polynomial(coefficients: Tensor, x: Tensor) -> Tensor:
    """Σ_j c_j x^j."""
    y = coefficients[-1].expand_as(x)
    for coefficient in coefficients[:-1].flip(0).unbind():
        y = y * x + coefficient
    return y
