"""Batch normalisation over the valid rows of a matrix, for training."""

from torch import Tensor

from speechkit.ops._dispatch import choose
from speechkit.ops.batch_norm import cpu
from speechkit.ops.batch_norm import torch as torch_

IMPLEMENTATIONS = {"cpu": cpu, "torch": torch_, "reference": torch_}
"""The fastest first."""


def batch_norm(
    x: Tensor,
    valid: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    relu: bool = False,
    residual: Tensor | None = None,
    impl: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """y = f((x − μ) / sqrt(σ² + eps) · weight + bias + residual), μ and σ² over the valid rows.

    f is max(·, 0) where `relu`. The other rows may hold anything, and are zero in y. Shape: x,
    residual and y `[N, C]`, valid `[N]` bool, weight and bias `[C]`; μ and σ² (biased) `[C]`,
    through which no gradient flows. Ioffe & Szegedy, arXiv:1502.03167.
    """
    chosen = choose(IMPLEMENTATIONS, impl, x, weight)
    y, mean, variance = chosen.batch_norm(x, valid, weight, bias, eps, relu, residual)
    return y, mean, variance
