"""Torch's conv2d on the channels-last view, which runs anywhere.

Torch's depthwise conv1d and the backward of its channels-last conv2d are both slow for long
kernels, so the backward is built from fast forwards: the input's gradient is a convolution with
the flipped kernel, the weight's is one long convolution of x by the output's gradient.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def unsupported(x: Tensor, weight: Tensor) -> str | None:
    """None: it takes any tensors."""
    return None


def depthwise_conv(
    x: Tensor,
    weight: Tensor,
    stride: int,
    dilation: int,
    padding: tuple[int, int],
    valid: Tensor | None,
) -> Tensor:
    """Shapes as the public function."""
    rows = x.transpose(1, 2)
    if valid is not None:
        # with contiguous rows this is twice as fast
        rows = torch.where(valid[:, :, None], rows, 0)
    x = F.pad(rows, (0, 0, *padding)).transpose(1, 2)
    y: Tensor = DepthwiseConv.apply(x, weight.to(x.dtype), stride, dilation)  # type: ignore[no-untyped-call]
    return y


class DepthwiseConv(torch.autograd.Function):
    """Forward and both gradients, without padding."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.dilation = stride, dilation
        return _convolve(x, weight, stride, dilation)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        dense = _insert_zeros(dy, ctx.stride, x.shape[2] - ctx.dilation * (weight.shape[2] - 1))
        dx = dw = None
        if ctx.needs_input_grad[0]:
            dx = _input_gradient(dense, weight, ctx.dilation)
        if ctx.needs_input_grad[1]:
            dw = _weight_gradient(x, dense, weight.shape[2], ctx.dilation)
        return dx, dw, None, None


def _convolve(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    channels = weight.shape[0]
    if dilation == 1 or stride > 1:
        y = F.conv2d(
            x.unsqueeze(2), weight.unsqueeze(2), None, (1, stride), 0, (1, dilation), channels
        )
        return y.squeeze(2)
    # torch is slow at dilation, so each phase t mod dilation is a plain convolution; the phases are
    # the columns of an image of T / dilation rows
    frames = x.shape[2] - dilation * (weight.shape[2] - 1)
    rows = _pad_time(x, 0, -x.shape[2] % dilation).transpose(1, 2)
    image = rows.unflatten(1, (-1, dilation)).permute(0, 3, 1, 2)
    y = F.conv2d(image, weight.unsqueeze(3), groups=channels).permute(0, 2, 3, 1)
    return y.flatten(1, 2)[:, :frames].transpose(1, 2)


def _input_gradient(dy: Tensor, weight: Tensor, dilation: int) -> Tensor:
    reach = dilation * (weight.shape[2] - 1)
    return _convolve(_pad_time(dy, reach, reach), weight.flip(2), 1, dilation)


def _weight_gradient(x: Tensor, dy: Tensor, taps: int, dilation: int) -> Tensor:
    batch, channels, frames = x.shape
    rows = x.reshape(1, batch * channels, 1, frames)
    kernels = dy.reshape(batch * channels, 1, 1, -1)
    # tap k pairs dy[t] with x[t + k·dilation], so the convolution steps by the dilation
    dw = F.conv2d(rows, kernels, stride=(1, dilation), groups=batch * channels)
    return dw.reshape(batch, channels, -1)[:, :, :taps].sum(0).unsqueeze(1)


def _insert_zeros(dy: Tensor, stride: int, frames: int) -> Tensor:
    """dy at every `stride`-th of `frames` frames, zero between."""
    if stride == 1:
        return dy
    dense = dy.new_zeros(dy.shape[0], frames, dy.shape[1])
    dense[:, ::stride] = dy.transpose(1, 2)
    return dense.transpose(1, 2)


def _pad_time(x: Tensor, left: int, right: int) -> Tensor:
    return F.pad(x.transpose(1, 2), (0, 0, left, right)).transpose(1, 2)
