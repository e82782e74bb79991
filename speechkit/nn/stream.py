"""The streaming contract and the base classes of layers. Read this file first.

A layer computes the same numbers in two ways. `forward` takes a whole utterance. `step` takes one
chunk and a state, and returns one chunk and the next state. It is `delay` output frames later than
`forward`, because it waits for the future frames that `forward` reads:

    cat(step outputs)[delay : delay + n] == forward(x)          for every chunking

after `delay * stride` invalid frames are fed to flush. Padding of batches, warm-up and flush all
use `valid`. A layer that reads other frames first masks its input with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.errors import StreamError
from speechkit.ops.describes import describes
from speechkit.ops.explain import Choice

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value
    from speechkit.streaming.engines.cuda.ring_net import RingNet, Stream

State = Any
"""Nested tuples of tensors, batch first."""


class Chunk(NamedTuple):
    """Frames, and a mask of the valid ones.

    Shape: x `[B, C, T]` with the strides of a contiguous `[B, T, C]`; valid `[B, T]` bool, False
    before the first frame, after the last, and in batch padding, where x may hold anything.
    """

    x: Tensor
    valid: Tensor

    @classmethod
    def of(cls, x: Tensor, lengths: Tensor | None = None) -> Chunk:
        """A chunk of `x [B, C, T]` with `lengths[b]` valid frames in row b, or all if None."""
        frames = torch.arange(x.shape[2], device=x.device)
        end = torch.full((x.shape[0],), x.shape[2], device=x.device) if lengths is None else lengths
        return cls(x, frames < end[:, None])

    @property
    def masked(self) -> Tensor:
        """`x` with zeros in invalid frames; unlike a product, this removes NaN."""
        # twice as fast on the [B, T, C] view, which is contiguous
        return torch.where(self.valid[:, :, None], self.x.transpose(1, 2), 0).transpose(1, 2)

    @property
    def lengths(self) -> Tensor:
        """The number of valid frames of each row, `[B]` int64."""
        return self.valid.sum(1)


RESERVED: dict[str, tuple[type, str]] = {
    "stride": (Integral, "the whole number of input frames that make `rate` output frames"),
    "rate": (Integral, "the whole number of output frames that `stride` input frames make"),
    "delay": (Integral, "the whole number of output frames by which a stream is later"),
    "left": (Real, "the number of input frames before its own that an output frame reads"),
    "right": (Real, "the number of input frames after its own that an output frame reads"),
}
"""The attributes of every StreamLayer that nets compute with."""


class StreamLayer(nn.Module):
    """Base class of all streaming layers; on its own it is the identity.

    `stride` input frames make `rate` output frames (`rate` is 1 unless a layer upsamples), and a
    step takes a multiple of `stride`. `delay` is in output frames. An output frame reads the input
    from `left` frames before its own to `right` after (infinite if it reads everything). Setting
    one of these five to anything but a number is a TypeError. A layer that is `per_clip` gives one
    frame for an utterance, however long.
    `undecayed` and `self_initialized` name its parameters, or submodules, that are exempt from
    weight decay and from the model's init.

    `lower`, `lower_to_rings`, `macs` and `exportable` describe a layer to other parts of the
    system. Those of this class describe the identity. For a subclass only the methods count that it
    defines itself (`speechkit.nn.describes`); all are optional. The same holds for `fuse()`, which
    this class does not have, because layers inside others may have that name.
    """

    stride: int = 1
    rate: int = 1
    delay: int = 0
    left: Fraction | float = Fraction(0)
    right: Fraction | float = Fraction(0)
    per_clip: bool = False
    undecayed: tuple[str, ...] = ()
    self_initialized: tuple[str, ...] = ()

    def __init_subclass__(cls, **kw: Any) -> None:
        super().__init_subclass__(**kw)
        for name in RESERVED.keys() & vars(cls).keys():
            if not isinstance(vars(cls)[name], property):
                _check_reserved(cls, name, vars(cls)[name])

    def __setattr__(self, name: str, value: Any) -> None:
        if name in RESERVED:
            _check_reserved(type(self), name, value)
        super().__setattr__(name, value)

    def channels_out(self, c_in: int) -> int:
        """The number of output channels for `c_in` input channels."""
        return c_in

    def forward(self, c: Chunk) -> Chunk:
        """The output for a whole utterance."""
        return c

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        """The state before the first frame."""
        return ()

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        """The output for the next chunk, and the next state; a pure function."""
        return self.forward(c), state

    def lower(self, program: Lowering, x: Value) -> Value:
        """Adds its step to a native program; returns its output buffer."""
        return x

    def lower_to_rings(self, net: RingNet, x: Stream) -> Stream:
        """Adds its step for many sessions on a GPU to a net; returns its output stream."""
        return x

    def macs(self, frames: int) -> int:
        """Its multiply-adds for one utterance of `frames` input frames."""
        return 0

    def exportable(self) -> nn.Module:
        """A module that is equal in evaluation, of operations that every runtime supports."""
        return self

    def check_chunk(self, c: Chunk) -> None:
        """Raises StreamError where the chunk's frames are not a multiple of `stride`."""
        frames, rest = c.x.shape[2], c.x.shape[2] % self.stride
        if rest:
            fits = [n for n in (frames - rest, frames - rest + self.stride) if n]
            raise StreamError(
                f"chunk of {frames} frames is not a multiple of stride {self.stride}; "
                f"feed {' or '.join(map(str, fits))}"
            )


def _check_reserved(layer: type, name: str, value: Any) -> None:
    kind, meaning = RESERVED[name]
    if not isinstance(value, kind):
        given = repr(value) if isinstance(value, Real) else f"of type {type(value).__name__}"
        raise TypeError(
            f"{layer.__name__}.{name} is {given}; in a StreamLayer {name} is {meaning}: give your "
            f"own attribute another name, such as {name}_"
        )


def cat_time(parts: list[Tensor]) -> Tensor:
    """Concatenates `[B, C, T]` tensors along time in channels-last layout."""
    return torch.cat([part.transpose(1, 2) for part in parts], dim=1).transpose(1, 2)


def zeros(batch: int, channels: int, frames: int, dtype: torch.dtype, device: Any) -> Tensor:
    """Channels-last zeros, `[B, C, T]`."""
    return torch.zeros(batch, frames, channels, dtype=dtype, device=device).transpose(1, 2)


def empty_past(
    batch: int, channels: int, frames: int, dtype: torch.dtype, device: Any
) -> tuple[Tensor, Tensor]:
    """The initial state of a layer that keeps `frames` input frames, all invalid."""
    valid = torch.zeros(batch, frames, dtype=torch.bool, device=device)
    return zeros(batch, channels, frames, dtype, device), valid


class Windowed(StreamLayer):
    """A layer whose output frame reads its input from `left` frames before to `right` after.

    It waits for whole strides: delay = right // stride · rate. Its state is the last
    keep = right // stride · stride + left input frames. A subclass defines the output of a window.
    """

    left: int
    right: int

    def __init__(self, left: int, right: int, stride: int, rate: int = 1) -> None:
        super().__init__()
        self.left, self.right, self.stride, self.rate = left, right, stride, rate
        self.delay = right // stride * rate
        self.keep = right // stride * stride + left

    def compute(self, x: Tensor, frames: int, valid: Tensor) -> Tensor:
        """The first `frames` output frames; the first window begins at the start of `x`.

        `x [B, C, T]` is 0 in the frames that are not `valid [B, T]`.
        """
        raise AssertionError("a Windowed layer is one of its subclasses")

    def own(self, valid: Tensor) -> Tensor:
        """The validity of output frames from that of the input frames at the same time."""
        return valid[:, :: self.stride]

    def frames_out(self, frames: int) -> int:
        """The number of output frames of an utterance."""
        # without a negative dividend, which ONNX rounds towards zero
        return (frames * self.rate + self.stride - 1) // self.stride

    def forward(self, c: Chunk) -> Chunk:
        frames, missing = self.frames_out(c.x.shape[2]), -c.x.shape[2] % self.stride
        x = F.pad(c.masked.transpose(1, 2), (0, 0, self.left, self.right + missing))
        valid = F.pad(c.valid, (self.left, self.right + missing))
        own = self.own(F.pad(c.valid, (0, missing)))
        return Chunk(self.compute(x.transpose(1, 2), frames, valid), own[:, :frames])

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        return empty_past(batch, c_in, self.keep, dtype, device)

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        (x, valid), own, state = self.slide(c, state)
        return Chunk(self.compute(x, c.x.shape[2] // self.stride * self.rate, valid), own), state

    def slide(self, c: Chunk, state: State) -> tuple[Chunk, Tensor, State]:
        """The kept and the new frames, the validity of the output, and the next state."""
        self.check_chunk(c)
        given = c.x.shape[2]
        x, valid = cat_time([state[0], c.masked]), torch.cat([state[1], c.valid], dim=1)
        # a copy, since the caller may overwrite the output's validity
        own = self.own(valid[:, self.left : self.left + given]).clone()
        return Chunk(x, valid), own, (x[:, :, given:], valid[:, given:])


class Recurrent(StreamLayer):
    """A layer that depends on all earlier frames: `forward` is a `step` from the initial state.

    Invalid frames complete the last stride; they change neither its state nor later outputs.
    """

    left = math.inf

    def forward(self, c: Chunk) -> Chunk:
        batch, channels, frames = c.x.shape
        if self.stride > 1:
            missing = -frames % self.stride
            x = F.pad(c.x.transpose(1, 2), (0, 0, 0, missing)).transpose(1, 2)
            c = Chunk(x, F.pad(c.valid, (0, missing)))
        return self.step(c, self.init_state(batch, channels, c.x.dtype, c.x.device))[0]


class Delay(StreamLayer):
    """Delays frames in a stream, so that two branches of a net are aligned.

    Offline it is the identity. Shape: `[B, C, T]` → the same.
    """

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.delay = frames

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        return empty_past(batch, c_in, self.delay, dtype, device)

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        if not self.delay:
            return c, state
        x, valid = cat_time([state[0], c.x]), torch.cat([state[1], c.valid], dim=1)
        frames = c.x.shape[2]
        return Chunk(x[:, :, :frames], valid[:, :frames]), (x[:, :, frames:], valid[:, frames:])

    def lower(self, program: Lowering, x: Value) -> Value:
        if not self.delay:
            return x
        return program.emit("delay", x, keep=self.delay)

    def lower_to_rings(self, net: RingNet, x: Stream) -> Stream:
        return x._replace(wait=x.wait + self.delay)

    def extra_repr(self) -> str:
        return f"frames={self.delay}"


class FrameWise(StreamLayer):
    """Makes a module that processes each frame separately a StreamLayer without state.

    `module` maps `[B, C, T]` to `[B, C', T]`; `c_out` is C' where it differs from C.
    """

    def __init__(self, module: nn.Module, c_out: int | None = None) -> None:
        super().__init__()
        self.module = module
        self.c_out = c_out

    def channels_out(self, c_in: int) -> int:
        return c_in if self.c_out is None else self.c_out

    def implementation(self) -> Choice:
        """The implementation that its module runs, unknown to the core."""
        return Choice(type(self.module).__name__, "itself", {})

    def forward(self, c: Chunk) -> Chunk:
        return Chunk(self.module(c.x), c.valid)

    def fuse(self) -> nn.Module:
        """A simpler layer that is equal in evaluation, for `speechkit.nn.fuse`."""
        if type(self.module) in (nn.Dropout, nn.Identity):
            return StreamLayer()
        if not describes(self.module, "fuse"):
            return self
        simpler: nn.Module = self.module.fuse()  # type: ignore[operator]
        return as_layer(simpler, self.c_out)

    def lower(self, program: Lowering, x: Value) -> Value:
        return program.add(self.module, x)


def as_layer(module: nn.Module, c_out: int | None = None) -> StreamLayer:
    """The module itself if it is a StreamLayer, otherwise wrapped by FrameWise."""
    return module if isinstance(module, StreamLayer) else FrameWise(module, c_out)


def unwrapped(layer: nn.Module) -> nn.Module:
    """The module in a FrameWise, otherwise the layer itself."""
    return layer.module if isinstance(layer, FrameWise) else layer


class Serial(StreamLayer):
    """Applies layers in order, numbered or named: `Serial(a, b)`, `Serial(mixer=a, norm=b)`.

    If the next layer's stride does not divide the delay, a Delay is inserted before that layer.
    delay = Σ over layers of delay // stride · rate + layer.delay, in output frames.
    """

    def __init__(self, *layers: StreamLayer, **named: StreamLayer) -> None:
        super().__init__()
        waits: list[Delay | None] = []
        delay, ratio, multiple = 0, Fraction(1), 1
        left: Fraction | float = Fraction(0)
        right: Fraction | float = Fraction(0)
        for name, layer in {**{str(i): x for i, x in enumerate(layers)}, **named}.items():
            if not isinstance(layer, StreamLayer):
                raise TypeError(
                    f"Serial takes StreamLayers, not {type(layer).__name__}; use as_layer"
                )
            self.add_module(name, layer)
            missing = -delay % layer.stride
            waits.append(Delay(missing) if missing else None)
            delay = (delay + missing) // layer.stride * layer.rate + layer.delay
            left, right = left + layer.left / ratio, right + layer.right / ratio
            # the smallest number of input frames that gives this layer a multiple of its stride
            multiple *= Fraction(layer.stride, int(multiple * ratio)).numerator
            ratio *= Fraction(layer.rate, layer.stride)
        # not registered, so that the names of weights do not depend on the look-ahead
        self.waits = tuple(waits)
        self.stride, self.rate, self.delay = multiple, int(multiple * ratio), delay
        self.left, self.right = left, right

    def __iter__(self) -> Iterator[StreamLayer]:
        return iter(self._modules.values())  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self._modules)

    def __getitem__(self, index: int) -> StreamLayer:
        return list(self)[index]

    def channels_out(self, c_in: int) -> int:
        for layer in self:
            c_in = layer.channels_out(c_in)
        return c_in

    def forward(self, c: Chunk) -> Chunk:
        for layer in self:
            c = layer(c)
        return c

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        states = []
        for layer in self.aligned():
            states.append(layer.init_state(batch, c_in, dtype, device))
            c_in = layer.channels_out(c_in)
        return tuple(states)

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        self.check_chunk(c)
        states = []
        for layer, before in zip(self.aligned(), state, strict=True):
            c, after = layer.step(c, before)
            states.append(after)
        return c, tuple(states)

    def lower(self, program: Lowering, x: Value) -> Value:
        for layer in self.aligned():
            x = program.add(layer, x)
        return x

    def lower_to_rings(self, net: RingNet, x: Stream) -> Stream:
        for layer in self.aligned():
            x = net.add(layer, x)
        return x

    def aligned(self) -> Iterator[StreamLayer]:
        """The layers, with a Delay before those that need one."""
        for wait, layer in zip(self.waits, self, strict=True):
            if wait is not None:
                yield wait
            yield layer


class Residual(StreamLayer):
    """y = merge(shortcut(x), body(x)); the branch with less delay is delayed to align both.

    `merge` is a module `(shortcut, body) -> y` on `[B, C, T]`; both branches have one frame rate.
    """

    def __init__(self, body: StreamLayer, shortcut: StreamLayer, merge: nn.Module) -> None:
        super().__init__()
        ratio, other = (Fraction(branch.rate, branch.stride) for branch in (body, shortcut))
        if ratio != other:
            raise StreamError(
                f"the body has {ratio} of the input's frame rate and the shortcut {other}; "
                "give both the same stride"
            )
        self.stride = math.lcm(body.stride, shortcut.stride)
        self.rate = int(self.stride * ratio)
        self.delay = max(body.delay, shortcut.delay)
        self.left = max(body.left, shortcut.left)
        self.right = max(body.right, shortcut.right)
        self.body = body
        self.shortcut = shortcut
        self.merge = merge
        self.body_wait = Delay(self.delay - body.delay)
        self.shortcut_wait = Delay(self.delay - shortcut.delay)

    def channels_out(self, c_in: int) -> int:
        return self.body.channels_out(c_in)

    def forward(self, c: Chunk) -> Chunk:
        body, shortcut = self.body(c), self.shortcut(c)
        return Chunk(self.merge(shortcut.x, body.x), body.valid)

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        branches = (self.body, self.body_wait), (self.shortcut, self.shortcut_wait)
        return tuple(
            state
            for branch, wait in branches
            for state in (
                branch.init_state(batch, c_in, dtype, device),
                wait.init_state(batch, branch.channels_out(c_in), dtype, device),
            )
        )

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        body, s_body = self.body.step(c, state[0])
        body, s_body_wait = self.body_wait.step(body, state[1])
        shortcut, s_shortcut = self.shortcut.step(c, state[2])
        shortcut, s_shortcut_wait = self.shortcut_wait.step(shortcut, state[3])
        y = Chunk(self.merge(shortcut.x, body.x), body.valid)
        return y, (s_body, s_body_wait, s_shortcut, s_shortcut_wait)

    def lower(self, program: Lowering, x: Value) -> Value:
        body = program.add(self.body_wait, program.add(self.body, x))
        shortcut = program.add(self.shortcut_wait, program.add(self.shortcut, x))
        return program.merge(self.merge, shortcut, body)
