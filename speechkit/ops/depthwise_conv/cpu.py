"""The same in C++ for this processor: forward and both gradients, as torch custom ops."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechkit.ops.native import LIBRARY, call, function, sum_type, why_not

SOURCE = Path(__file__).with_name("cpu.cpp")


def unsupported(x: Tensor, weight: Tensor) -> str | None:
    """Why this implementation cannot take these tensors, or None."""
    return why_not(x, SOURCE)


LIBRARY.define(
    "depthwise_conv(Tensor x, Tensor weight, Tensor? valid, int stride, int dilation, int left,"
    " int right) -> Tensor"
)
LIBRARY.define(
    "depthwise_conv_backward(Tensor dy, Tensor x, Tensor weight, Tensor? valid, int stride,"
    " int dilation, int left) -> (Tensor, Tensor)"
)


def depthwise_conv(
    x: Tensor,
    weight: Tensor,
    stride: int,
    dilation: int,
    padding: tuple[int, int],
    valid: Tensor | None,
) -> Tensor:
    """Shapes as the public function."""
    y: Tensor = torch.ops.speechkit.depthwise_conv(x, weight, valid, stride, dilation, *padding)
    return y


def _forward(
    x: Tensor,
    weight: Tensor,
    valid: Tensor | None,
    stride: int,
    dilation: int,
    left: int,
    right: int,
) -> Tensor:
    frames = _frames_out(x, weight, stride, dilation, left + right)
    return _convolve(x, valid, weight, None, stride, dilation, left, frames)


def _gradients(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    valid: Tensor | None,
    stride: int,
    dilation: int,
    left: int,
) -> tuple[Tensor, Tensor]:
    """The gradients of input and weight."""
    dw = _weight_gradient(dy, x, valid, weight.shape[2], stride, dilation, left)
    if stride > 1:
        dense = dy.new_zeros(dy.shape[0], (dy.shape[2] - 1) * stride + 1, dy.shape[1])
        dense[:, ::stride] = dy.transpose(1, 2)
        dy = dense.transpose(1, 2)
    # the gradient of the input is a convolution with the flipped kernel
    reach = dilation * (weight.shape[2] - 1)
    dx = _convolve(dy, None, weight.flip(2), valid, 1, dilation, reach - left, x.shape[2])
    return dx, dw.to(weight.dtype)


def _fake_forward(
    x: Tensor,
    weight: Tensor,
    valid: Tensor | None,
    stride: int,
    dilation: int,
    left: int,
    right: int,
) -> Tensor:
    frames = _frames_out(x, weight, stride, dilation, left + right)
    return x.new_empty(x.shape[0], frames, x.shape[1]).transpose(1, 2)


def _fake_gradients(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    valid: Tensor | None,
    stride: int,
    dilation: int,
    left: int,
) -> tuple[Tensor, Tensor]:
    dx = x.new_empty(x.shape[0], x.shape[2], x.shape[1]).transpose(1, 2)
    return dx, torch.empty_like(weight)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, valid, ctx.stride, ctx.dilation, ctx.left, _ = inputs
    ctx.save_for_backward(x, weight, valid)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, valid = ctx.saved_tensors
    backward = torch.ops.speechkit.depthwise_conv_backward
    dx, dw = backward(dy, x, weight, valid, ctx.stride, ctx.dilation, ctx.left)
    return dx, dw, None, None, None, None, None


LIBRARY.impl("depthwise_conv", _forward, "CPU")
LIBRARY.impl("depthwise_conv_backward", _gradients, "CPU")
torch.library.register_fake("speechkit::depthwise_conv", _fake_forward, lib=LIBRARY)
torch.library.register_fake("speechkit::depthwise_conv_backward", _fake_gradients, lib=LIBRARY)
torch.library.register_autograd(
    "speechkit::depthwise_conv", _backward, setup_context=_remember, lib=LIBRARY
)


def _frames_out(x: Tensor, weight: Tensor, stride: int, dilation: int, padding: int) -> int:
    return (x.shape[2] + padding - dilation * (weight.shape[2] - 1) - 1) // stride + 1


def _convolve(
    x: Tensor,
    valid_in: Tensor | None,
    weight: Tensor,
    valid_out: Tensor | None,
    stride: int,
    dilation: int,
    left: int,
    frames_out: int,
) -> Tensor:
    """Output o reads from frame o · stride − left on, zeros beyond the ends."""
    rows, taps = x.transpose(1, 2).contiguous(), _taps(weight, x.dtype)
    batch, frames, channels = rows.shape
    y = rows.new_empty(batch, frames_out, channels)
    sizes = batch, frames, channels, len(taps), stride, dilation, left, frames_out
    call(
        function(SOURCE, "depthwise_conv", x),
        rows,
        _bools(valid_in),
        taps,
        y,
        _bools(valid_out),
        *sizes,
    )
    return y.transpose(1, 2)


def _weight_gradient(
    dy: Tensor, x: Tensor, valid: Tensor | None, taps: int, stride: int, dilation: int, left: int
) -> Tensor:
    rows, d = x.transpose(1, 2).contiguous(), dy.transpose(1, 2).to(x.dtype).contiguous()
    batch, frames, channels = rows.shape
    dw = rows.new_empty(taps, channels, dtype=sum_type(x.dtype))
    sizes = batch, frames, channels, taps, stride, dilation, left, d.shape[1]
    call(function(SOURCE, "depthwise_conv_weight", x), rows, _bools(valid), d, dw, *sizes)
    return dw.T.unsqueeze(1).contiguous()


def _taps(weight: Tensor, dtype: torch.dtype) -> Tensor:
    return weight[:, 0].T.to(sum_type(dtype)).contiguous()


def _bools(valid: Tensor | None) -> Tensor | None:
    return None if valid is None else valid.contiguous()
