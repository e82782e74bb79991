"""The matrix product of a 1×1 convolution."""

from torch import Tensor

from speechkit.ops._dispatch import Choice, choose, decide
from speechkit.ops.linear import cpu
from speechkit.ops.linear import torch as torch_

IMPLEMENTATIONS = {"cpu": cpu, "torch": torch_, "reference": torch_}
"""The fastest first."""


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, impl: str | None = None
) -> Tensor:
    """y = x Wᵀ (+ b). Shape: x `[B, T, C]` contiguous, weight `[C', C]`, y `[B, T, C']`."""
    chosen = choose(IMPLEMENTATIONS, impl, x, weight)
    y: Tensor = chosen.linear(x, weight, bias)
    return y


def implementation(weight: Tensor) -> Choice:
    """The implementation that a layer with this weight runs."""
    return decide("linear", IMPLEMENTATIONS, None, weight, weight)
