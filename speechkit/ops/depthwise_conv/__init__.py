"""Depthwise convolution over time on channels-last tensors."""

from torch import Tensor

from speechkit.ops._dispatch import Choice, choose, decide
from speechkit.ops.depthwise_conv import cpu, numba, reference, triton
from speechkit.ops.depthwise_conv import torch as torch_

IMPLEMENTATIONS = {
    "cpu": cpu,
    "numba": numba,
    "triton": triton,
    "torch": torch_,
    "reference": reference,
}
"""The fastest first."""


def depthwise_conv(
    x: Tensor,
    weight: Tensor,
    stride: int = 1,
    dilation: int = 1,
    padding: tuple[int, int] = (0, 0),
    valid: Tensor | None = None,
    impl: str | None = None,
) -> Tensor:
    """Each channel's filter over time: y[c, t] = Σ_k w[c, k] x[c, t·stride + k·dilation − left].

    x counts as zero for `left` frames before its first and `right` after its last, `padding` being
    (left, right), and where `valid [B, T]` is False. Shape: x `[B, C, T]` (strides of a contiguous
    `[B, T, C]`), weight `[C, 1, K]`, y `[B, C, (left + T + right − span) // stride + 1]` with
    span = dilation·(K − 1) + 1, channels-last too. `impl` is one of IMPLEMENTATIONS.
    """
    chosen = choose(IMPLEMENTATIONS, impl, x, weight)
    y: Tensor = chosen.depthwise_conv(x, weight, stride, dilation, padding, valid)
    return y


def implementation(weight: Tensor) -> Choice:
    """The implementation that a layer with this weight runs."""
    return decide("depthwise_conv", IMPLEMENTATIONS, None, weight.transpose(0, 1), weight)
