"""The same in C++ for this processor: forward and both gradients, as torch custom ops."""

import ctypes
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechkit.ops.native import load

SOURCE = Path(__file__).with_name("cpu.cpp")
SUFFIXES = {torch.float32: "f32", torch.float64: "f64"}


def unsupported(x: Tensor, weight: Tensor) -> str | None:
    """Why this implementation cannot take these tensors, or None."""
    if x.device.type != "cpu":
        return f"it runs on the CPU, not on {x.device.type}"
    if x.dtype not in SUFFIXES or weight.dtype != x.dtype:
        return f"it computes in float32 and float64, not {x.dtype} by {weight.dtype}"
    library = load(SOURCE)
    return library if isinstance(library, str) else None


# torch.library.custom_op would import the compiler, more than a second, on the first call
_library = torch.library.Library("speechkit", "DEF")
_library.define("depthwise_conv(Tensor x, Tensor weight, int stride, int dilation) -> Tensor")
_library.define(
    "depthwise_conv_backward(Tensor dy, Tensor x, Tensor weight, int stride, int dilation)"
    " -> (Tensor, Tensor)"
)


def depthwise_conv(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    """Shapes as the public function."""
    y: Tensor = torch.ops.speechkit.depthwise_conv(x, weight, stride, dilation)
    return y


def _forward(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    return _convolve(x, weight, stride, dilation, 0, _frames_out(x, weight, stride, dilation))


def _gradients(
    dy: Tensor, x: Tensor, weight: Tensor, stride: int, dilation: int
) -> tuple[Tensor, Tensor]:
    """The gradients of input and weight."""
    return (
        _input_gradient(dy, weight, stride, dilation, x.shape[2]),
        _weight_gradient(dy, x, weight.shape[2], stride, dilation),
    )


def _fake_forward(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    frames = _frames_out(x, weight, stride, dilation)
    return x.new_empty(x.shape[0], frames, x.shape[1]).transpose(1, 2)


def _fake_gradients(
    dy: Tensor, x: Tensor, weight: Tensor, stride: int, dilation: int
) -> tuple[Tensor, Tensor]:
    dx = x.new_empty(x.shape[0], x.shape[2], x.shape[1]).transpose(1, 2)
    return dx, torch.empty_like(weight)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, ctx.stride, ctx.dilation = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None, None]:
    x, weight = ctx.saved_tensors
    backward = torch.ops.speechkit.depthwise_conv_backward
    dx, dw = backward(dy, x, weight, ctx.stride, ctx.dilation)
    return dx, dw, None, None


_library.impl("depthwise_conv", _forward, "CPU")
_library.impl("depthwise_conv_backward", _gradients, "CPU")
torch.library.register_fake("speechkit::depthwise_conv", _fake_forward, lib=_library)
torch.library.register_fake("speechkit::depthwise_conv_backward", _fake_gradients, lib=_library)
torch.library.register_autograd(
    "speechkit::depthwise_conv", _backward, setup_context=_remember, lib=_library
)


def _frames_out(x: Tensor, weight: Tensor, stride: int, dilation: int) -> int:
    return (x.shape[2] - dilation * (weight.shape[2] - 1) - 1) // stride + 1


def _convolve(
    x: Tensor, weight: Tensor, stride: int, dilation: int, left: int, frames_out: int
) -> Tensor:
    """Output o reads from frame o · stride − left on, zeros beyond the ends."""
    rows, taps = x.transpose(1, 2).contiguous(), weight[:, 0].T.contiguous()
    batch, frames, channels = rows.shape
    y = rows.new_empty(batch, frames_out, channels)
    sizes = batch, frames, channels, len(taps), stride, dilation, left, frames_out
    _call(f"depthwise_conv_{SUFFIXES[x.dtype]}", (rows, taps, y), sizes)
    return y.transpose(1, 2)


def _input_gradient(dy: Tensor, weight: Tensor, stride: int, dilation: int, frames: int) -> Tensor:
    reach = dilation * (weight.shape[2] - 1)
    if stride > 1:
        dense = dy.new_zeros(dy.shape[0], (dy.shape[2] - 1) * stride + 1, dy.shape[1])
        dense[:, ::stride] = dy.transpose(1, 2)
        dy = dense.transpose(1, 2)
    return _convolve(dy, weight.flip(2), 1, dilation, reach, frames)


def _weight_gradient(dy: Tensor, x: Tensor, taps: int, stride: int, dilation: int) -> Tensor:
    rows, d = x.transpose(1, 2).contiguous(), dy.transpose(1, 2).contiguous()
    batch, frames, channels = rows.shape
    dw = rows.new_empty(taps, channels)
    sizes = batch, frames, channels, taps, stride, dilation, d.shape[1]
    _call(f"depthwise_conv_weight_{SUFFIXES[x.dtype]}", (rows, d, dw), sizes)
    return dw.T.unsqueeze(1).contiguous()


def _call(name: str, tensors: tuple[Tensor, ...], sizes: tuple[int, ...]) -> None:
    library = load(SOURCE)
    assert isinstance(library, ctypes.CDLL), library
    pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors)
    numbers = (ctypes.c_int64(size) for size in sizes)
    getattr(library, name)(*pointers, *numbers, ctypes.c_int(torch.get_num_threads()))
