"""The op as a depthwise and a 1×1 convolution, each with its own gradient."""

import torch
from torch import Tensor

from speechkit.ops.depthwise_conv import depthwise_conv
from speechkit.ops.linear import linear
from speechkit.ops.separable_conv.shape import Shape


def needs_gradient(*tensors: Tensor | None) -> bool:
    """True if any tensor needs a gradient, which fused implementations do not compute."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def unfused(
    shape: Shape,
    depthwise: Tensor | None,
    pointwise: Tensor | None,
    bias: Tensor | None,
    x: Tensor,
    valid: Tensor | None,
    residual: Tensor | None,
    impl: str,
) -> Tensor:
    """The op with plain weights; `impl` computes its depthwise part. Shapes as Packed."""
    assert pointwise is not None
    if depthwise is None:
        x = x[:, :, :: shape.stride]
    else:
        around = shape.stride, shape.dilation, shape.padding, valid
        x = depthwise_conv(x, depthwise, *around, impl=impl)
    y = linear(x.transpose(1, 2), pointwise, bias).transpose(1, 2)
    return shape.activation(y if residual is None else y + residual)
