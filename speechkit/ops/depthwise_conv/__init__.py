"""Depthwise convolution over time, without padding, on channels-last tensors."""

from torch import Tensor

from speechkit.ops._dispatch import choose
from speechkit.ops.depthwise_conv import cpu, reference
from speechkit.ops.depthwise_conv import torch as torch_

IMPLEMENTATIONS = {"cpu": cpu, "torch": torch_, "reference": reference}
"""The fastest first."""


def depthwise_conv(
    x: Tensor, weight: Tensor, stride: int = 1, dilation: int = 1, impl: str | None = None
) -> Tensor:
    """Each channel's own filter over time: y[c, t] = Σ_k w[c, k] x[c, t·stride + k·dilation].

    Shape: x `[B, C, T]` (strides of a contiguous `[B, T, C]`), weight `[C, 1, K]`,
    y `[B, C, (T − dilation·(K − 1) − 1) // stride + 1]`, channels-last too. `impl` is one of
    IMPLEMENTATIONS.
    """
    chosen = choose(IMPLEMENTATIONS, impl, x, weight)
    y: Tensor = chosen.depthwise_conv(x, weight, stride, dilation)
    return y
