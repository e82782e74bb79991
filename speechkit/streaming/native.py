"""A net's step as one call of C++: the plan of a layer tree, and the layer that runs it.

The plan is a list of instructions over buffers (`native.cpp` says what each does), one session's
state a row of floats. Batch norms are folded into the weights before them, activations join the
instruction before them. A net that holds a layer not listed in PLANNERS runs in torch.
"""

import ctypes
import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechkit.builtin.factories import Add, LogSoftmax
from speechkit.frontend.base import Project
from speechkit.frontend.mel import Log
from speechkit.frontend.normalize import PCEN, Fixed
from speechkit.frontend.resample import Resample
from speechkit.frontend.stft import PowerSpectrum, PreEmphasis
from speechkit.models import Model
from speechkit.nn import (
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
    Serial,
    SlidingAverage,
    State,
    StreamLayer,
)
from speechkit.ops._dispatch import asked
from speechkit.ops.native import load

SOURCE = Path(__file__).with_name("native.cpp")
LANES = 16
CODES = (
    *("depthwise", "pointwise", "affine", "activate", "log", "delay", "add", "preemphasis"),
    *("spectrum", "resample", "log_softmax", "sliding_average", "running_average", "pcen"),
)
FIELDS = (
    *("code", "in", "in_valid", "out", "out_valid", "rows_in", "rows_out", "channels_in"),
    *("channels_out", "keep", "state", "window", "weights", "activation", "taps", "stride"),
    *("dilation", "left", "rate", "other"),
)
NO_ACTIVATION, RELU, SILU, HARDTANH = range(4)


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
    """Instructions and weights as they grow."""

    instructions: list[dict[str, int]] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    weight_count: int = 0
    state_count: int = 0
    scratch_count: int = 0

    def buffer(self, rows: int, channels: int) -> Buffer:
        return Buffer(self.scratch(rows * ld(channels)), self.scratch(rows), rows, channels)

    def scratch(self, count: int) -> int:
        at, self.scratch_count = self.scratch_count, self.scratch_count + ld(count)
        return at

    def hold(self, table: Tensor) -> int:
        """Puts `[rows, n]` or `[n]` among the weights, each row padded to whole registers."""
        table = table.detach().double().cpu()
        table = table if table.ndim == 2 else table[None]
        rows = torch.nn.functional.pad(table, (0, ld(table.shape[1]) - table.shape[1])).flatten()
        at, self.weight_count = self.weight_count, self.weight_count + len(rows)
        self.weights.append(rows)
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
        }
        self.instructions.append({**dict.fromkeys(FIELDS, 0), **own, **more})
        return y

    def slide(self, x: Buffer, keep: int) -> dict[str, int]:
        """The state and scratch of a layer that looks back `keep` rows."""
        rows = keep + x.rows
        window = self.scratch(rows * ld(x.channels) + rows)
        at = self.state_count
        self.state_count += ld(keep * ld(x.channels) + keep)
        return {"keep": keep, "state": at, "window": window}

    def fusable(self, x: Buffer, *codes: str) -> dict[str, int] | None:
        """The last instruction, if it is one of `codes` and made `x`, which nobody else reads."""
        last = self.instructions[-1] if self.instructions else None
        if last is None or x.shared or last["out"] != x.at or last["activation"]:
            return None
        return last if CODES[last["code"]] in codes else None

    def add_layer(self, layer: nn.Module, x: Buffer) -> Buffer:
        kind = type(layer)
        # a front end is a Serial of its own; any other subclass may compute something else
        if kind not in PLANNERS and isinstance(layer, Serial) and type(layer).step is Serial.step:
            kind = Serial
        if kind not in PLANNERS:
            raise UnplannedError(f"no native {kind.__name__}")
        return PLANNERS[kind](self, layer, x)


def ld(count: int) -> int:
    """`count` rounded up to whole registers."""
    return -(-count // LANES) * LANES


def _serial(plan: Plan, layer: Serial, x: Buffer) -> Buffer:
    for part in layer.aligned():
        x = plan.add_layer(part, x)
    return x


def _residual(plan: Plan, layer: Residual, x: Buffer) -> Buffer:
    if type(layer.merge) is not Add:
        raise UnplannedError(f"no native {type(layer.merge).__name__}")
    given = Buffer(x.at, x.valid, x.rows, x.channels, shared=True)
    body = plan.add_layer(layer.body_wait, plan.add_layer(layer.body, given))
    body = Buffer(body.at, body.valid, body.rows, body.channels, shared=True)
    shortcut = plan.add_layer(layer.shortcut_wait, plan.add_layer(layer.shortcut, given))
    y = plan.buffer(body.rows, body.channels)
    return plan.emit("add", body, y, other=shortcut.at, weights=plan.hold(torch.zeros(2)))


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
        weights=plan.hold(layer.weight[:, 0].T),
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
    at = plan.hold(torch.cat([weight.detach().double().T, bias.detach().double()[None]]))
    plan.hold(torch.zeros(2))  # the limits of a hardtanh
    y = plan.buffer(x.rows // stride, len(weight))
    return plan.emit("pointwise", x, y, weights=at, stride=stride)


def _pointwise(plan: Plan, layer: Pointwise, x: Buffer) -> Buffer:
    return _matrix(plan, x, layer.weight, layer.bias)


def _dense(plan: Plan, layer: DenseConv, x: Buffer) -> Buffer:
    if layer.kernel != 1:
        raise UnplannedError(f"no native DenseConv of kernel {layer.kernel}")
    return _matrix(plan, x, layer.weight[:, :, 0], stride=layer.stride)


def _project(plan: Plan, layer: Project, x: Buffer) -> Buffer:
    return _matrix(plan, x, layer.table.value)


def _affine(plan: Plan, x: Buffer, scale: Tensor, shift: Tensor) -> Buffer:
    """y = x · scale + shift per channel, folded into the matrix before it where there is one."""
    if last := plan.fusable(x, "pointwise"):
        # the matrix and its bias were held last but for the limits
        table = plan.weights[-2].view(-1, ld(x.channels))
        wide = [
            torch.nn.functional.pad(v, (0, ld(x.channels) - x.channels)) for v in (scale, shift)
        ]
        table *= wide[0]
        table[last["channels_in"]] += wide[1]
        return x
    y = plan.buffer(x.rows, x.channels) if x.shared else x
    return plan.emit("affine", x, y, weights=plan.hold(torch.stack([scale, shift])))


def _batch_norm(plan: Plan, layer: BatchNorm, x: Buffer) -> Buffer:
    weight, bias, mean, variance = (
        value.detach().double()
        for value in (layer.weight, layer.bias, layer.running_mean, layer.running_var)
    )
    scale = weight / (variance + layer.eps).sqrt()
    return _affine(plan, x, scale, bias - mean * scale)


def _fixed(plan: Plan, layer: Fixed, x: Buffer) -> Buffer:
    scale = 1 / layer.std.double()
    return _affine(plan, x, scale, -layer.mean.double() * scale)


def _bias(plan: Plan, layer: Bias, x: Buffer) -> Buffer:
    bias = layer.bias.detach().double()
    return _affine(plan, x, torch.ones_like(bias), bias)


def _activation(kind: int) -> Callable[[Plan, Any, Buffer], Buffer]:
    def add(plan: Plan, layer: Any, x: Buffer) -> Buffer:
        limits = torch.tensor([getattr(layer, "min_val", 0.0), getattr(layer, "max_val", 0.0)])
        if last := plan.fusable(x, "pointwise", "add"):
            last["activation"] = kind
            plan.weights[-1][:2] = limits
            return x
        y = plan.buffer(x.rows, x.channels) if x.shared else x
        return plan.emit("activate", x, y, activation=kind, weights=plan.hold(limits))

    return add


def _frame_wise(plan: Plan, layer: FrameWise, x: Buffer) -> Buffer:
    return plan.add_layer(layer.module, x)


def _log(plan: Plan, layer: Log, x: Buffer) -> Buffer:
    y = plan.buffer(x.rows, x.channels) if x.shared else x
    return plan.emit("log", x, y, weights=plan.hold(torch.tensor([layer.guard])))


def _log_softmax(plan: Plan, layer: LogSoftmax, x: Buffer) -> Buffer:
    return plan.emit("log_softmax", x, plan.buffer(x.rows, x.channels))


def _preemphasis(plan: Plan, layer: PreEmphasis, x: Buffer) -> Buffer:
    weights = plan.hold(torch.tensor([layer.coefficient], dtype=torch.float64))
    more = plan.slide(x, layer.keep)
    return plan.emit(
        "preemphasis", x, plan.buffer(x.rows, 1), **more, weights=weights, left=layer.left
    )


def _spectrum(plan: Plan, layer: PowerSpectrum, x: Buffer) -> Buffer:
    size = layer.n_fft
    if size & (size - 1):
        raise UnplannedError(f"no native spectrum of {size} samples")
    at = plan.hold(layer.window.value)
    angles = torch.arange(size // 2, dtype=torch.float64) * (2 * math.pi / size)
    plan.hold(torch.cat([angles.cos(), angles.sin()]))
    return plan.emit(
        "spectrum",
        x,
        plan.buffer(x.rows // layer.stride, size // 2 + 1),
        **plan.slide(x, layer.keep),
        weights=at,
        taps=layer.window_samples,
        stride=layer.stride,
        dilation=size,
        left=layer.left,
        rate=size // 2 - layer.left,
        other=plan.scratch(size + layer.window_samples),
    )


def _resample(plan: Plan, layer: Resample, x: Buffer) -> Buffer:
    filters = layer.filters.value
    return plan.emit(
        "resample",
        x,
        plan.buffer(x.rows // layer.stride * layer.rate, 1),
        **plan.slide(x, layer.keep),
        weights=plan.hold(filters.flatten()),
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
    at, plan.state_count = plan.state_count, plan.state_count + ld(ld(x.channels) + 1)
    return plan.emit("running_average", x, plan.buffer(x.rows, x.channels), state=at)


def _pcen(plan: Plan, layer: PCEN, x: Buffer) -> Buffer:
    decay = math.exp(-1 / layer.time_constant_frames)
    numbers = [decay, layer.gain, layer.bias, layer.power, layer.epsilon]
    at, plan.state_count = plan.state_count, plan.state_count + ld(ld(x.channels) + 1)
    weights = plan.hold(torch.tensor(numbers, dtype=torch.float64))
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
    BatchNorm: _batch_norm,
    Fixed: _fixed,
    PCEN: _pcen,
    Bias: _bias,
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
    nn.ReLU: _activation(RELU),
    nn.SiLU: _activation(SILU),
    nn.Hardtanh: _activation(HARDTANH),
}
"""What knows how to plan each type of layer."""


class NativeLayer(StreamLayer):
    """A net over audio `[B, 1, N]` whose step is one native call for blocks of one size.

    It takes the place of `layer` in a session: the same stride, rate and delay, and the same
    scores up to float32 rounding. The state is one tensor `[B, S]`. Raises UnplannedError where the
    net holds a layer that it does not know.
    """

    def __init__(self, layer: Serial, block_samples: int) -> None:
        super().__init__()
        library = load(SOURCE)
        if isinstance(library, str):
            raise UnplannedError(library)
        self.stride, self.rate, self.delay = layer.stride, layer.rate, layer.delay
        self.block_samples = block_samples
        plan = Plan()
        y = plan.add_layer(layer, plan.buffer(block_samples, 1))
        if not plan.instructions or plan.instructions[-1]["out"] != y.at:
            raise UnplannedError("no instruction gives the scores")
        self.rows, self.channels = y.rows, y.channels
        self.state_count = plan.state_count
        self._weights = torch.cat(plan.weights).float()
        numbers = [[row[name] for name in FIELDS] for row in plan.instructions]
        self._program = torch.tensor(numbers, dtype=torch.int64)
        self._scratch_count = plan.scratch_count
        self._step = library.stream_step

    def channels_out(self, c_in: int) -> int:
        return self.channels

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        return (torch.zeros(batch, self.state_count),)

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        """The next block; unlike others it writes into the state it is given."""
        (own,) = state
        batch = c.x.shape[0]
        y = torch.empty(batch, self.rows, self.channels)
        valid = torch.empty(batch, self.rows)
        # made here, not kept: sessions in other threads share this layer
        scratch = torch.zeros(self._scratch_count)
        real = int(c.valid[0].sum())
        pointers = [
            ctypes.c_void_p(x.data_ptr())
            for x in (self._program, self._weights, own, c.x, y, valid, scratch)
        ]
        program, weights, memory, x, out, flags, work = pointers
        integer = ctypes.c_int64
        self._step(
            *(program, integer(len(self._program)), weights),
            *(memory, integer(self.state_count), x, integer(self.block_samples), integer(real)),
            *(out, flags, integer(batch), work),
        )
        return Chunk(y.transpose(1, 2), valid > 0), state


_layers: weakref.WeakKeyDictionary[Model, dict[Any, tuple[Any, StreamLayer | str]]]
_layers = weakref.WeakKeyDictionary()


def native_layer(model: Model, layer: Serial, block_samples: int, key: Any) -> StreamLayer | str:
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
        found: StreamLayer | str
        try:
            found = NativeLayer(layer, block_samples)
        except UnplannedError as error:
            found = str(error)
        kept[key] = version, found
    return kept[key][1]


def _version(tensor: Tensor) -> int:
    """How often a tensor was changed in place; those of inference mode do not count."""
    return 0 if tensor.is_inference() else tensor._version
