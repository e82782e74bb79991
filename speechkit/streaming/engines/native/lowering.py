"""How each type of layer becomes instructions of the native step; others run in torch."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.frontend.base import Project
from speechkit.frontend.mel import Log
from speechkit.frontend.normalize import PCEN, Fixed
from speechkit.frontend.resample import Resample
from speechkit.frontend.stft import PowerSpectrum, PreEmphasis
from speechkit.nn import (
    Add,
    Affine,
    BatchNorm,
    Bias,
    Delay,
    DenseConv,
    DepthwiseConv,
    Dropout,
    FrameWise,
    LogSoftmax,
    Pointwise,
    Residual,
    RunningAverage,
    SeparableConv,
    SeparableResidual,
    Serial,
    SlidingAverage,
    StreamLayer,
)
from speechkit.ops.activation import Activation, activation_of
from speechkit.ops.separable_conv import PRECISIONS, Packed, Shape, pack
from speechkit.streaming.engines.native.program import (
    Buffer,
    Plan,
    Planner,
    UnplannedError,
    ld,
    padded,
)


def _serial(plan: Plan, layer: Serial, x: Buffer) -> Buffer:
    for part in layer.aligned():
        x = plan.add_layer(part, x)
    return x


def _shared(x: Buffer) -> Buffer:
    return Buffer(x.at, x.valid, x.rows, x.channels, shared=True)


def _residual(plan: Plan, layer: Residual, x: Buffer) -> Buffer:
    if type(layer.merge) is not Add:
        raise UnplannedError(f"no native {type(layer.merge).__name__}")
    given = _shared(x)
    body = _shared(plan.add_layer(layer.body_wait, plan.add_layer(layer.body, given)))
    shortcut = plan.add_layer(layer.shortcut_wait, plan.add_layer(layer.shortcut, given))
    y = plan.buffer(body.rows, body.channels)
    return plan.emit("add", body, y, other=shortcut.at, **plan.act(Activation("none")))


def _separable_residual(plan: Plan, layer: SeparableResidual, x: Buffer) -> Buffer:
    given = _shared(x)
    shortcut = plan.add_layer(layer.shortcut_wait, plan.add_layer(layer.shortcut, given))
    return _packed(plan, layer.last.packed, plan.add_layer(layer.head, given), shortcut)


def _separable(plan: Plan, layer: SeparableConv, x: Buffer) -> Buffer:
    return _packed(plan, layer.packed, x)


def _packed(plan: Plan, packed: Packed, x: Buffer, residual: Buffer | None = None) -> Buffer:
    """f(W (w * x) + b + residual)."""
    if packed.choice.impl != "cpu":
        raise UnplannedError("its weights are packed for another implementation")
    if packed.shape.c_out == 1:
        # rows of one channel are sound's, without the room that a register is written to
        raise UnplannedError("no native matrix of one channel")
    shape, (_, matrix, bias, scale, offset, _, depthwise, *_) = packed.shape, packed.weights
    assert matrix is not None
    assert bias is not None
    assert scale is not None
    assert offset is not None
    more = {
        "precision": PRECISIONS.index(shape.precision),
        "packed": plan.hold(matrix),
        "bias": plan.hold(bias),
        "scale": plan.hold(scale),
        "offset": plan.hold(offset),
        **plan.act(shape.activation),
    }
    if depthwise is not None:
        left, right = shape.padding
        more |= plan.slide(x, right // shape.stride * shape.stride + left)
        rows = x.rows // shape.stride
        more["work"] = plan.scratch(rows * ld(x.channels))
        more |= {"weights": plan.hold(plan.grouped(depthwise)), "taps": shape.taps, "left": left}
        more["dilation"] = shape.dilation
    if residual is not None:
        more["other"] = residual.at
    y = plan.buffer(x.rows // shape.stride, shape.c_out)
    return plan.emit("separable", x, y, stride=shape.stride, **more)


def _delay(plan: Plan, layer: Delay, x: Buffer) -> Buffer:
    if not layer.delay:
        return x
    return plan.emit("delay", x, plan.buffer(x.rows, x.channels), **plan.slide(x, layer.delay))


def _depthwise(plan: Plan, layer: DepthwiseConv, x: Buffer) -> Buffer:
    return plan.emit(
        "depthwise",
        x,
        plan.buffer(x.rows // layer.stride, x.channels),
        **plan.slide(x, layer.keep),
        weights=plan.hold(plan.grouped(layer.weight)),
        taps=layer.kernel,
        stride=layer.stride,
        dilation=layer.dilation,
        left=layer.left,
    )


def _matrix(
    plan: Plan, x: Buffer, weight: Tensor, bias: Tensor | None = None, stride: int = 1
) -> Buffer:
    """y = W x + b with W `[C', C]`."""
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    shape = Shape(weight.shape[1], weight.shape[0], stride=stride)
    return _packed(plan, pack(shape, None, weight.detach(), bias.detach(), "cpu"), x)


def _pointwise(plan: Plan, layer: Pointwise, x: Buffer) -> Buffer:
    return _matrix(plan, x, layer.weight, layer.bias)


def _dense(plan: Plan, layer: DenseConv, x: Buffer) -> Buffer:
    if layer.kernel != 1:
        raise UnplannedError(f"no native DenseConv of kernel {layer.kernel}")
    return _matrix(plan, x, layer.weight[:, :, 0], stride=layer.stride)


def _project(plan: Plan, layer: Project, x: Buffer) -> Buffer:
    return _matrix(plan, x, layer.table.value)


def _affine(plan: Plan, x: Buffer, scale: Tensor, shift: Tensor) -> Buffer:
    """y = x · scale + shift per channel."""
    table = F.pad(torch.stack([scale, shift]).float(), (0, ld(x.channels) - x.channels))
    y = plan.buffer(x.rows, x.channels) if x.shared else x
    return plan.emit("affine", x, y, weights=plan.hold(table))


def _foldable(plan: Plan, layer: BatchNorm | Bias, x: Buffer) -> Buffer:
    affine = layer.fuse()
    return _affine(plan, x, affine.scale, affine.shift)


def _fixed(plan: Plan, layer: Fixed, x: Buffer) -> Buffer:
    scale = 1 / layer.std.double()
    return _affine(plan, x, scale, -layer.mean.double() * scale)


def _frame_wise(plan: Plan, layer: FrameWise, x: Buffer) -> Buffer:
    if isinstance(layer.module, Affine):
        return _affine(plan, x, layer.module.scale, layer.module.shift)
    if (activation := activation_of(layer.module)) is not None:
        y = plan.buffer(x.rows, x.channels) if x.shared else x
        return plan.emit("activate", x, y, **plan.act(activation))
    return plan.add_layer(layer.module, x)


def _log(plan: Plan, layer: Log, x: Buffer) -> Buffer:
    y = plan.buffer(x.rows, x.channels) if x.shared else x
    return plan.emit("log", x, y, weights=plan.hold(torch.tensor([layer.guard])))


def _log_softmax(plan: Plan, layer: LogSoftmax, x: Buffer) -> Buffer:
    return plan.emit("log_softmax", x, plan.buffer(x.rows, x.channels))


def _preemphasis(plan: Plan, layer: PreEmphasis, x: Buffer) -> Buffer:
    weights = plan.hold(torch.tensor([float(layer.coefficient)]))
    more = plan.slide(x, layer.keep)
    return plan.emit(
        "preemphasis", x, plan.buffer(x.rows, 1), **more, weights=weights, left=layer.left
    )


def _spectrum(plan: Plan, layer: PowerSpectrum, x: Buffer) -> Buffer:
    size = layer.n_fft
    if size & (size - 1) or size < 8:
        raise UnplannedError(f"no native spectrum of {size} samples")
    return plan.emit(
        "spectrum",
        x,
        plan.buffer(x.rows // layer.stride, size // 2 + 1),
        **plan.slide(x, layer.keep),
        weights=plan.hold(layer.window.value.float(), *_transform_tables(size)),
        taps=layer.window_samples,
        stride=layer.stride,
        dilation=size,
        left=layer.left,
        rate=size // 2 - layer.left,
        work=plan.scratch(3 * size),
    )


def _transform_tables(size: int) -> tuple[Tensor, Tensor]:
    """cos and −sin of 2π k / size, and the twiddles of each pass by fours of half the size."""

    def turns(angles: Tensor) -> Tensor:
        return torch.stack([angles.cos(), -angles.sin()]).float()

    half = size // 2
    passes = []
    while half >= 4:
        quarters = torch.arange(half // 4, dtype=torch.float64)
        angles = quarters[:, None] * torch.arange(1, 4) * (2 * math.pi / half)
        passes.append(turns(angles).permute(1, 2, 0).flatten())
        half //= 4
    whole = torch.arange(size // 2, dtype=torch.float64) * (2 * math.pi / size)
    return turns(whole), torch.cat(passes)


def _resample(plan: Plan, layer: Resample, x: Buffer) -> Buffer:
    filters = layer.filters.value.float()
    return plan.emit(
        "resample",
        x,
        plan.buffer(x.rows // layer.stride * layer.rate, 1),
        **plan.slide(x, layer.keep),
        weights=plan.hold(filters),
        taps=filters.shape[1],
        stride=layer.stride,
        left=layer.left,
        rate=layer.rate,
    )


def _sliding_average(plan: Plan, layer: SlidingAverage, x: Buffer) -> Buffer:
    more = plan.slide(x, layer.keep)
    y = plan.buffer(x.rows, x.channels)
    return plan.emit("sliding_average", x, y, **more, taps=layer.frames, left=layer.left)


def _running_average(plan: Plan, layer: RunningAverage, x: Buffer) -> Buffer:
    at, plan.state_count = plan.state_count, plan.state_count + padded(ld(x.channels) + 1)
    return plan.emit("running_average", x, plan.buffer(x.rows, x.channels), state=at)


def _pcen(plan: Plan, layer: PCEN, x: Buffer) -> Buffer:
    decay = math.exp(-1 / layer.time_constant_frames)
    numbers = [decay, layer.gain, layer.bias, layer.power, layer.epsilon]
    at, plan.state_count = plan.state_count, plan.state_count + padded(ld(x.channels) + 1)
    weights = plan.hold(torch.tensor(numbers))
    return plan.emit("pcen", x, plan.buffer(x.rows, x.channels), state=at, weights=weights)


def _nothing(plan: Plan, layer: nn.Module, x: Buffer) -> Buffer:
    return x


PLANNERS: dict[type, Planner] = {
    Serial: _serial,
    Residual: _residual,
    Delay: _delay,
    DepthwiseConv: _depthwise,
    DenseConv: _dense,
    Pointwise: _pointwise,
    Project: _project,
    SeparableConv: _separable,
    SeparableResidual: _separable_residual,
    BatchNorm: _foldable,
    Fixed: _fixed,
    PCEN: _pcen,
    Bias: _foldable,
    FrameWise: _frame_wise,
    Log: _log,
    LogSoftmax: _log_softmax,
    PreEmphasis: _preemphasis,
    PowerSpectrum: _spectrum,
    Resample: _resample,
    SlidingAverage: _sliding_average,
    RunningAverage: _running_average,
    StreamLayer: _nothing,
    nn.Dropout: _nothing,
    Dropout: _nothing,
}
"""What knows how to plan each type of layer."""
