"""The reference implementation: simple, slow and differentiable."""

import torch
from torch import Tensor

from speechkit.ops.depthwise_conv import reference
from speechkit.ops.separable_conv.shape import Shape


def unsupported(shape: Shape, pointwise: Tensor) -> str | None:
    """Why this implementation cannot take these weights, or None."""
    return None if shape.precision == "float32" else f"it has no {shape.precision}"


def pack(
    shape: Shape, depthwise: Tensor | None, pointwise: Tensor, bias: Tensor
) -> tuple[Tensor | None, ...]:
    """The weights as they are."""
    return depthwise, pointwise, bias


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
        x = reference.depthwise_conv(x, depthwise, *around)
    y = torch.einsum("dc,bct->bdt", pointwise, x) + bias[:, None]
    return shape.activation(y if residual is None else y + residual)
