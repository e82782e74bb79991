"""Batch normalisation over the real rows of a matrix, as training wants it."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def batch_norm(
    x: Tensor, real: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """y = (x − μ) / sqrt(σ² + eps) · weight + bias with μ and σ² over rows where `real` is 1.

    Shape: x `[N, C]`, finite everywhere, real `[N]` of 0 and 1, weight and bias `[C]`; y `[N, C]`,
    and μ and σ² (biased) `[C]`, through which no gradient flows. Ioffe & Szegedy, arXiv:1502.03167.
    """
    y, mean, variance = _BatchNorm.apply(x, real, weight, bias, eps)
    return y, mean, variance


class _BatchNorm(torch.autograd.Function):
    """The gradient in closed form: half the passes over memory that autograd would make.

    With s = weight / sqrt(σ² + eps) and x̂ = (x − μ) / sqrt(σ² + eps):
    dx = s · (dy − real / Σ real · (Σ dy + x̂ Σ dy x̂)).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, real: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        # a product with a row of weights is a weighted sum of rows, at matrix speed
        share = real / real.sum().clamp(min=1)
        mean = share @ x
        centred = x - mean
        variance = share @ centred.square()
        rstd = torch.rsqrt(variance + eps)
        ctx.save_for_backward(centred, share, rstd, weight)
        ctx.mark_non_differentiable(mean, variance)
        return torch.addcmul(bias, centred, rstd * weight), mean, variance

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, dy: Tensor, d_mean: Tensor, d_variance: Tensor
    ) -> tuple[Tensor, None, Tensor, Tensor, None]:
        centred, share, rstd, weight = ctx.saved_tensors
        ones = torch.ones_like(share)
        d_bias = ones @ dy
        d_weight = (ones @ (dy * centred)) * rstd
        through_statistics = torch.addcmul(d_bias, centred, rstd * d_weight) * share[:, None]
        return (dy - through_statistics) * (rstd * weight), None, d_weight, d_bias, None
