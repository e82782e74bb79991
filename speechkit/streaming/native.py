"""A net's step as one call of C++: the plan of a layer tree, and the layer that runs it.

The plan is a list of instructions over buffers (`native.cpp` says what each does), one session's
state a row of floats. The tree is fused first, so that a sub-block is one instruction. A net that
holds a layer not listed in PLANNERS runs in torch.
"""

import ctypes
import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.builtin.factories import LogSoftmax
from speechkit.frontend.base import Project
from speechkit.frontend.mel import Log
from speechkit.frontend.normalize import PCEN, Fixed
from speechkit.frontend.resample import Resample
from speechkit.frontend.stft import PowerSpectrum, PreEmphasis
from speechkit.models import Model
from speechkit.nn import (
    Add,
    Affine,
    BatchNorm,
    Bias,
    Chunk,
    Delay,
    DenseConv,
    DepthwiseConv,
    FrameWise,
    Pointwise,
    Residual,
    RunningAverage,
    SeparableConv,
    SeparableResidual,
    Serial,
    SlidingAverage,
    State,
    StreamLayer,
    fuse,
)
from speechkit.ops._dispatch import asked
from speechkit.ops.activation import Activation, activation_of
from speechkit.ops.native import load
from speechkit.ops.separable_conv import PRECISIONS, Packed, Precision, Shape, pack

SOURCE = Path(__file__).with_name("native.cpp")
LANES = 16
"""What the channels of a buffer are padded to."""
LONGEST_CYCLE = 16
CODES = (
    *("separable", "depthwise", "affine", "activate", "log", "delay", "add", "preemphasis"),
    *("spectrum", "resample", "log_softmax", "sliding_average", "running_average", "pcen"),
)
FIELDS = (
    *("code", "in", "in_valid", "out", "out_valid", "rows_in", "rows_out", "channels_in"),
    *("channels_out", "keep", "cycle", "state", "weights", "taps", "stride", "dilation", "left"),
    *("rate", "other", "work", "activation", "numbers", "precision", "packed", "bias", "scale"),
    "offset",
)


_P, _I = ctypes.c_void_p, ctypes.c_int64
ARGUMENTS = (_P, _I, _P, _P, _I, _P, _I, _I, _I, _I, _I, _P, _P, _I, _P, _I)


class UnplannedError(Exception):
    """A layer that the native step does not know; its text names it."""


@dataclass(frozen=True)
class Buffer:
    """Rows of channels in the scratch; a `shared` one is read again and must not be changed."""

    at: int
    valid: int
    rows: int
    channels: int
    shared: bool = False


@dataclass
class Plan:
    """Instructions and weights as they grow; `lanes` are the channels of a group in C++."""

    lanes: int
    instructions: list[dict[str, int]] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    weight_count: int = 0
    # the first float counts a session's steps
    state_count: int = LANES
    scratch_count: int = 0

    def buffer(self, rows: int, channels: int) -> Buffer:
        return Buffer(self.scratch(rows * ld(channels)), self.scratch(rows), rows, channels)

    def scratch(self, count: int) -> int:
        at, self.scratch_count = self.scratch_count, self.scratch_count + padded(count)
        return at

    def hold(self, *values: Tensor) -> int:
        """Puts tensors of any type among the weights, each from the beginning of a register."""
        at = self.weight_count
        for value in values:
            raw = value.detach().cpu().contiguous().flatten().view(torch.uint8)
            raw = F.pad(raw, (0, -len(raw) % (4 * LANES))).view(torch.float32)
            self.weights.append(raw)
            self.weight_count += len(raw)
        return at

    def emit(self, code: str, x: Buffer, y: Buffer, **more: int) -> Buffer:
        own = {
            "code": CODES.index(code),
            "in": x.at,
            "in_valid": x.valid,
            "out": y.at,
            "out_valid": y.valid,
            "rows_in": x.rows,
            "rows_out": y.rows,
            "channels_in": x.channels,
            "channels_out": y.channels,
            "stride": 1,
            "rate": 1,
            "cycle": 1,
            "other": -1,
        }
        self.instructions.append({**dict.fromkeys(FIELDS, 0), **own, **more})
        return y

    def slide(self, x: Buffer, keep: int) -> dict[str, int]:
        """The state of a layer that looks back `keep` rows, and room to move on in it."""
        cycle = 1
        while cycle < LONGEST_CYCLE and cycle * x.rows < keep:
            cycle *= 2
        rows = keep + cycle * x.rows
        at = self.state_count
        self.state_count += padded(rows * ld(x.channels) + rows)
        return {"keep": keep, "cycle": cycle, "state": at}

    def act(self, activation: Activation) -> dict[str, int]:
        numbers = torch.tensor(activation.numbers)
        return {"activation": activation.code, "numbers": self.hold(numbers)}

    def grouped(self, taps: Tensor) -> Tensor:
        """`[C, 1, K]` as `[C / lanes, K, lanes]`."""
        rows = F.pad(taps[:, 0], (0, 0, 0, ld(len(taps)) - len(taps)))
        return rows.unflatten(0, (-1, self.lanes)).transpose(1, 2).contiguous()

    def add_layer(self, layer: nn.Module, x: Buffer) -> Buffer:
        kind = type(layer)
        # a front end is a Serial of its own; any other subclass may compute something else
        if kind not in PLANNERS and isinstance(layer, Serial) and type(layer).step is Serial.step:
            kind = Serial
        if kind not in PLANNERS:
            raise UnplannedError(f"no native {kind.__name__}")
        return PLANNERS[kind](self, layer, x)


def padded(count: int) -> int:
    """`count` rounded up to whole registers."""
    return -(-count // LANES) * LANES


def ld(channels: int) -> int:
    """The floats of a row; a sound is a single channel, without padding."""
    return 1 if channels == 1 else padded(channels)


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


PLANNERS: dict[type, Callable[[Plan, Any, Buffer], Buffer]] = {
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
}
"""What knows how to plan each type of layer."""


class NativeLayer(StreamLayer):
    """A net over audio `[B, 1, N]` whose step is one native call for blocks of one size.

    It takes the place of `layer` in a session: the same stride, rate and delay, and the same
    scores up to float32 rounding, or that of `precision`. The state is one tensor `[B, S]`. `c_in`
    is 1 for sound, or the number of features of a net without front end. Raises UnplannedError
    where the net holds a layer that it does not know.
    """

    def __init__(
        self,
        layer: StreamLayer,
        block_samples: int,
        precision: Precision = "float32",
        c_in: int = 1,
    ) -> None:
        super().__init__()
        library = load(SOURCE)
        if isinstance(library, str):
            raise UnplannedError(library)
        self.stride, self.rate, self.delay = layer.stride, layer.rate, layer.delay
        self.block_samples = block_samples
        self.c_in = c_in
        plan = Plan(int(library.stream_lanes()))
        y = plan.add_layer(fuse(layer, precision, "cpu"), plan.buffer(block_samples, c_in))
        if not plan.instructions or plan.instructions[-1]["out"] != y.at:
            raise UnplannedError("no instruction gives the scores")
        self.rows, self.channels = y.rows, y.channels
        self.state_count = plan.state_count
        self._weights = torch.cat(plan.weights)
        numbers = [[row[name] for name in FIELDS] for row in plan.instructions]
        self._program = torch.tensor(numbers, dtype=torch.int64)
        self.scratch_each = plan.scratch_count
        self._group = int(library.stream_group())
        self.plan = self._program.data_ptr(), len(self._program), self._weights.data_ptr()
        self.function = library.stream_step
        self.function.argtypes, self.function.restype = ARGUMENTS, None

    def channels_out(self, c_in: int) -> int:
        return self.channels

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        return (torch.zeros(batch, self.state_count),)

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        """The next block; unlike others it writes into the state it is given."""
        x = c.x.transpose(1, 2).contiguous().numpy()
        # made here, not kept: sessions in other threads share this layer
        call = Call(self, len(x), 1, state[0], self.scratch(len(x)))
        call(x, int(c.valid[0].sum()))
        return Chunk(call.scores[:, 0].transpose(1, 2), call.valid[:, 0]), state

    def scratch(self, batch: int) -> Tensor:
        """Memory for a call, which nobody else may use meanwhile."""
        return torch.empty(min(batch, self._group) * self.scratch_each)


class Call:
    """Steps of `batch` sessions over `blocks` blocks at a time, all but the sound made ready.

    `scores [B, blocks, T, n]` and `valid [B, blocks, T]` hold what the latest call gave; the state
    is written in place.
    """

    def __init__(
        self, layer: NativeLayer, batch: int, blocks: int, state: Tensor, scratch: Tensor
    ) -> None:
        self.scores = torch.empty(batch, blocks, layer.rows, layer.channels)
        self.valid = torch.empty(batch, blocks, layer.rows, dtype=torch.bool)
        # named, so that none is freed before the last call
        self._memory = layer, state, scratch
        self._step = layer.function
        self._before = (*layer.plan, state.data_ptr(), layer.state_count)
        self._sizes = layer.block_samples, layer.c_in
        addresses = self.scores.data_ptr(), self.valid.data_ptr()
        self._after = blocks, *addresses, batch, scratch.data_ptr(), layer.scratch_each

    def __call__(self, x: np.ndarray, real: int) -> None:
        """Steps over x `[B, N]` or `[B, N, C]` in C order, whose first `real` rows are valid."""
        sound = x.ctypes.data, x.strides[0] // 4
        self._step(*self._before, *sound, *self._sizes, real, *self._after)


_layers: weakref.WeakKeyDictionary[Model, dict[Any, tuple[Any, NativeLayer | str]]]
_layers = weakref.WeakKeyDictionary()


def native_layer(model: Model, layer: Serial, block_samples: int, key: Any) -> NativeLayer | str:
    """The native form of one of a model's layers, or in a line why there is none.

    It is kept under `key` and shared by all sessions, until a weight of the model changes.
    """
    weight = next(model.parameters())
    if asked() not in ("auto", "cpu"):
        return f"implementation {asked()!r} was asked for"
    if weight.dtype != torch.float32 or weight.device.type != "cpu":
        return f"it computes in float32 on the CPU, not {weight.dtype} on {weight.device.type}"
    version = tuple((x.data_ptr(), _version(x)) for x in model.state_dict().values())
    kept = _layers.setdefault(model, {})
    if key not in kept or kept[key][0] != version:
        found: NativeLayer | str
        try:
            found = NativeLayer(layer, block_samples)
        except UnplannedError as error:
            found = str(error)
        kept[key] = version, found
    return kept[key][1]


def _version(tensor: Tensor) -> int:
    """How often a tensor was changed in place; those of inference mode do not count."""
    return 0 if tensor.is_inference() else tensor._version
