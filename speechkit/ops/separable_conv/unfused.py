"""The op as a depthwise and a 1×1 convolution, each with its own gradient."""

import torch
from torch import Tensor

from speechkit.ops.depthwise_conv import depthwise_conv
from speechkit.ops.linear import linear
from speechkit.ops.separable_conv.shape import Shape


def learns(*tensors: Tensor | None) -> bool:
    """Whether a gradient of any of them is wanted, which a fused implementation does not have."""
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
    """The op of plain weights, its depthwise part by `impl`. Shapes as Packed."""
    assert pointwise is not None
    if depthwise is None:
        x = x[:, :, :: shape.stride]
    else:
        around = shape.stride, shape.dilation, shape.padding, valid
        x = depthwise_conv(x, depthwise, *around, impl=impl)
    y = linear(x.transpose(1, 2), pointwise, bias).transpose(1, 2)
    return shape.activation(y if residual is None else y + residual)
