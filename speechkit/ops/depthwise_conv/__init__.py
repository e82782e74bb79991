"""Depthwise convolution over time, without padding, on channels-last tensors."""

from torch import Tensor

from speechkit.ops.depthwise_conv.torch import DepthwiseConv


def depthwise_conv(x: Tensor, weight: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
    """Each channel's own filter over time: y[c, t] = Σ_k w[c, k] x[c, t·stride + k·dilation].

    Shape: x `[B, C, T]` (strides of a contiguous `[B, T, C]`), weight `[C, 1, K]`,
    y `[B, C, (T − dilation·(K − 1) − 1) // stride + 1]`, channels-last too.
    """
    y: Tensor = DepthwiseConv.apply(x, weight, stride, dilation)
    return y
