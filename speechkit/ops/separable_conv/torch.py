"""Torch's matrix product after the fastest depthwise convolution; runs anywhere."""

import torch
import torch.nn.functional as F
from torch import Tensor

from speechkit.ops.depthwise_conv import depthwise_conv
from speechkit.ops.separable_conv.shape import Shape


def unsupported(shape: Shape, pointwise: Tensor) -> str | None:
    """Why this implementation cannot take these weights, or None."""
    return "it has no int8" if shape.precision == "int8" else None


def pack(
    shape: Shape, depthwise: Tensor | None, pointwise: Tensor, bias: Tensor
) -> tuple[Tensor | None, ...]:
    """The 1×1 weights in the precision of the products."""
    half = shape.precision == "bfloat16"
    return depthwise, pointwise.to(torch.bfloat16) if half else pointwise, bias


def run(
    shape: Shape,
    weights: tuple[Tensor | None, ...],
    x: Tensor,
    valid: Tensor | None,
    residual: Tensor | None,
) -> Tensor:
    """Shapes as Packed."""
    depthwise, pointwise, bias = weights
    assert pointwise is not None
    assert bias is not None
    if depthwise is None:
        x = x[:, :, :: shape.stride]
    else:
        around = shape.stride, shape.dilation, shape.padding, valid
        x = depthwise_conv(x, depthwise, *around)
    rows = x.transpose(1, 2)
    y = F.linear(rows.to(pointwise.dtype), pointwise, bias.to(pointwise.dtype)).to(x.dtype)
    if residual is not None:
        y = y + residual.transpose(1, 2)
    return shape.activation(y.transpose(1, 2))
