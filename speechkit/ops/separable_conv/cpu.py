"""The same in C++ for this processor, in float32, bfloat16 and int8, as a torch custom op.

Where a gradient is needed, the parts run one after the other, each with its own gradient.
"""

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from speechkit.native.libraries import load
from speechkit.ops.native import LIBRARY, call
from speechkit.ops.separable_conv.shape import PRECISIONS, Shape
from speechkit.ops.separable_conv.unfused import needs_gradient, unfused

SOURCE = Path(__file__).with_name("cpu.cpp")
COLUMNS = 16
"""The multiple to which matmul.h pads columns."""
GROUPS = {"float32": 1, "bfloat16": 2, "int8": 4}
STORED = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}


def unsupported(shape: Shape, pointwise: Tensor) -> str | None:
    """Why this implementation cannot take these weights, or None."""
    if pointwise.device.type != "cpu":
        return f"it runs on the CPU, not on {pointwise.device.type}"
    if pointwise.dtype != torch.float32:
        return f"it takes float32, not {pointwise.dtype}"
    library = load(SOURCE)
    return library if isinstance(library, str) else None


def pack(
    shape: Shape, depthwise: Tensor | None, pointwise: Tensor, bias: Tensor
) -> tuple[Tensor | None, ...]:
    """Taps, panels, bias, scales, offsets and activation parameters; the plain weights last."""
    taps = None if depthwise is None else _grouped(depthwise.detach())
    bias_padded = _padded(bias.detach())
    scale, offset = torch.zeros_like(bias_padded), torch.zeros_like(bias_padded)
    rows = -(-shape.c_in // GROUPS[shape.precision]) * GROUPS[shape.precision]
    packed = torch.empty(rows * len(bias_padded), dtype=STORED[shape.precision])
    precision = PRECISIONS.index(shape.precision)
    plain = pointwise.detach().contiguous()
    function = library().separable_conv_pack
    call(function, plain, packed, scale, offset, precision, shape.c_in, shape.c_out)
    numbers = torch.from_numpy(shape.activation.numbers(shape.c_out))
    return taps, packed, bias_padded, scale, offset, numbers, depthwise, pointwise, bias


def run(
    shape: Shape,
    weights: tuple[Tensor | None, ...],
    x: Tensor,
    valid: Tensor | None,
    residual: Tensor | None,
) -> Tensor:
    """Shapes as Packed."""
    *packed, depthwise, pointwise, bias = weights
    if needs_gradient(x, residual, depthwise, pointwise, bias):
        return unfused(shape, depthwise, pointwise, bias, x, valid, residual, "cpu")
    y: Tensor = torch.ops.speechkit.separable_conv(
        x,
        valid,
        *packed,
        residual,
        [shape.c_out, shape.taps, shape.stride, shape.dilation, *shape.padding],
        PRECISIONS.index(shape.precision),
        shape.activation.kind,
    )
    return y


LIBRARY.define(
    "separable_conv(Tensor x, Tensor? valid, Tensor? taps, Tensor packed, Tensor bias,"
    " Tensor scale, Tensor offset, Tensor numbers, Tensor? residual, int[] sizes, int precision,"
    " int activation) -> Tensor"
)


def _forward(
    x: Tensor,
    valid: Tensor | None,
    taps: Tensor | None,
    packed: Tensor,
    bias: Tensor,
    scale: Tensor,
    offset: Tensor,
    numbers: Tensor,
    residual: Tensor | None,
    sizes: list[int],
    precision: int,
    activation: int,
) -> Tensor:
    c_out, count, stride, dilation, left, _ = sizes
    rows = x.transpose(1, 2).float().contiguous()
    more = None if residual is None else residual.transpose(1, 2).float().contiguous()
    marks = None if valid is None else valid.contiguous()
    batch, frames, channels = rows.shape
    y = rows.new_empty(batch, _frames_out(frames, sizes), c_out)
    given = rows, marks, taps, packed, bias, scale, offset, more, numbers, y
    shape = batch, frames, channels, count, stride, dilation, left, y.shape[1], c_out
    call(library().separable_conv, *given, *shape, precision, activation)
    return y.transpose(1, 2)


def _fake(
    x: Tensor,
    valid: Tensor | None,
    taps: Tensor | None,
    packed: Tensor,
    bias: Tensor,
    scale: Tensor,
    offset: Tensor,
    numbers: Tensor,
    residual: Tensor | None,
    sizes: list[int],
    precision: int,
    activation: int,
) -> Tensor:
    frames = _frames_out(x.shape[2], sizes)
    return x.new_empty(x.shape[0], frames, sizes[0], dtype=torch.float32).transpose(1, 2)


LIBRARY.impl("separable_conv", _forward, "CPU")
torch.library.register_fake("speechkit::separable_conv", _fake, lib=LIBRARY)


def _frames_out(frames: int, sizes: list[int]) -> int:
    _, taps, stride, dilation, left, right = sizes
    return (left + frames + right - dilation * (max(taps, 1) - 1) - 1) // stride + 1


def library() -> ctypes.CDLL:
    """The C++ functions; call it only where `unsupported` gives no reason."""
    found = load(SOURCE)
    assert isinstance(found, ctypes.CDLL), found
    return found


def _grouped(depthwise: Tensor) -> Tensor:
    """`[C, 1, K]` as groups of a register's channels, `[C / lanes, K, lanes]`."""
    lanes = int(library().separable_conv_lanes())
    taps = depthwise[:, 0]
    taps = torch.nn.functional.pad(taps, (0, 0, 0, -len(taps) % lanes))
    groups: Tensor = taps.unflatten(0, (-1, lanes)).transpose(1, 2).contiguous()
    return groups


def _padded(values: Tensor) -> Tensor:
    return torch.nn.functional.pad(values, (0, -len(values) % COLUMNS))
