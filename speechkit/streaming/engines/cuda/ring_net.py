"""The step of a net for many sessions in place: a plan of ops between rings, and their state.

Frames between two ops are in a ring buffer that holds all frames that its readers need, so that no
step moves a frame. Layers other than separable convolutions run unchanged, with their own state.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from speechkit.nn import (
    Chunk,
    SeparableResidual,
    Serial,
    State,
    StreamLayer,
    describes,
    fuse,
)
from speechkit.nn.states import copied, rebuilt, tensors_of
from speechkit.nn.stream import unwrapped
from speechkit.ops.explain import Choice
from speechkit.ops.separable_conv import ActiveRows, Packed, Precision, Ring, Shortcut, pack

ALIGNED = 16
"""Rings begin at a multiple of this many elements, so that a GPU reads full memory lines."""


class Stream(NamedTuple):
    """The input of an op: a ring, and the delay in frames."""

    ring: int
    wait: int = 0


@dataclass
class RingSpec:
    """A planned ring: `rate` frames per stride of the net, and `keep` earlier frames.

    A `shared` ring has more readers than the next op.
    """

    channels: int
    rate: int
    dtype: torch.dtype
    keep: int = 0
    shared: bool = False


class RingConv(nn.Module):
    """A separable convolution from ring to ring, with an optional residual."""

    def __init__(
        self,
        packed: Packed,
        source: Stream,
        target: int,
        shortcut: Stream | None = None,
        projection: Packed | None = None,
    ) -> None:
        super().__init__()
        self.packed, self.source, self.target = packed, source, target
        self.shortcut, self.projection = shortcut, projection

    def implementation(self) -> Choice:
        """Its implementation and its rings."""
        choice = self.packed.choice
        return choice._replace(op=f"{choice.op} {self.extra_repr()}")

    def forward(self, memory: "Memory", active: ActiveRows) -> None:
        more = None
        if self.shortcut is not None:
            ring = memory.rings[self.shortcut.ring]
            more = Shortcut(ring, self.shortcut.wait, self.projection)
        source, target = memory.rings[self.source.ring], memory.rings[self.target]
        self.packed.step(source, target, active, self.source.wait, more)

    def extra_repr(self) -> str:
        s, more = self.packed.shape, self.shortcut
        added = f" + ring {more.ring}" if more else ""
        return (
            f"{s.c_in}→{s.c_out}, kernel={s.taps}, stride={s.stride}, dilation={s.dilation}, "
            f"ring {self.source.ring}{added} → ring {self.target}"
        )


class RingLayer(nn.Module):
    """A sequence of other layers from ring to ring; their state is number `index` in the memory."""

    def __init__(
        self, source: Stream, target: int, layer: StreamLayer, c_in: int, index: int
    ) -> None:
        super().__init__()
        self.source, self.target, self.c_in, self.index = source, target, c_in, index
        self.row = Serial(layer)

    def init_state(self, batch: int, dtype: torch.dtype, device: torch.device | str) -> State:
        """The state before the first frame, in its own memory."""
        return copied(self.row.init_state(batch, self.c_in, dtype, device))

    def implementation(self) -> Choice:
        """Its implementation and its rings."""
        return Choice(f"{', '.join(map(_name, self.row))} {self.extra_repr()}", "torch", {})

    def forward(self, memory: "Memory", active: ActiveRows) -> None:
        ring, state = memory.rings[self.source.ring], memory.states[self.index]
        c = read(ring, active, self.source.wait)
        rows = rebuilt(state, (tensor[active.slots] for tensor in tensors_of(state)))
        y, after = self.row.step(Chunk(c.x.to(memory.dtype), c.valid), rows)
        for tensor, new in zip(tensors_of(state), tensors_of(after), strict=True):
            tensor[active.slots] = new
        memory.rings[self.target].write(active, y.x, y.valid)

    def extra_repr(self) -> str:
        return f"ring {self.source.ring} → ring {self.target}"


class RingNet(nn.Module):
    """A net over audio whose step serves many sessions at once and changes their state in place.

    It replaces `layer` in evaluation: it has the same stride, rate, delay and, up to rounding,
    scores. `precision` is that of the 1×1 products and of kept frames; sums are float32. A step
    does not wait for the device or depend on values on it, so that a CUDA graph can replay it.
    """

    def __init__(
        self,
        layer: StreamLayer,
        dtype: torch.dtype = torch.float32,
        precision: Precision = "float32",
        impl: str | None = None,
    ) -> None:
        super().__init__()
        self.stride, self.rate, self.delay = layer.stride, layer.rate, layer.delay
        self.dtype = dtype
        self._kept_as = torch.bfloat16 if precision == "bfloat16" else dtype
        self.ops = nn.ModuleList()
        # the first ring is the audio
        self.specs = [RingSpec(1, layer.stride, dtype)]
        self._impl = impl
        self.scores = self._keep(self.add(fuse(layer, precision, impl), Stream(0)), 0)
        self.specs[self.scores.ring].dtype = dtype
        self.channels = self.specs[self.scores.ring].channels

    def layers(self) -> list[RingLayer]:
        """The ops with their own state."""
        return [op for op in self.ops if isinstance(op, RingLayer)]

    @torch.inference_mode()
    def step(self, memory: "Memory", active: ActiveRows, x: Tensor, real: Tensor) -> Chunk:
        """Scores `[N, n, T]` of the next `active.strides` strides of audio.

        Shape: x `[N, strides · stride]`; the first `real[n]` samples of row n are valid.
        """
        valid = torch.arange(x.shape[1], device=x.device) < real[:, None]
        memory.rings[0].write(active, x[:, None], valid)
        for op in self.ops:
            op(memory, active)
        y = read(memory.rings[self.scores.ring], active, self.scores.wait)
        active.counts[active.slots] += active.strides
        return y

    def add(self, layer: StreamLayer, x: Stream) -> Stream:
        """Adds a layer, by its `lower_to_rings` or unchanged with its own state."""
        if describes(layer, "lower_to_rings"):
            return layer.lower_to_rings(self, x)
        return self._plain(layer, x)

    def residual(self, layer: SeparableResidual, x: Stream) -> Stream:
        """Adds a block whose last op adds the shortcut and activates."""
        self.specs[x.ring].shared = True
        body, last, wait = self.add(layer.head, x), layer.last.packed, layer.shortcut_wait
        if (one := layer.projection()) is not None:
            # one bias is the sum of both
            packed, projection = self._repacked(last, one), self._repacked(one)
            return self.conv(packed, body, self.add(wait, x), projection)
        return self.conv(last, body, self.add(wait, self.add(layer.shortcut, x)))

    def _repacked(self, packed: Packed, other: Packed | None = None) -> Packed:
        """The same with another's bias added to its own, or without bias."""
        *_, depthwise, pointwise, bias = packed.weights
        more = None if other is None else other.weights[-1]
        assert pointwise is not None
        assert bias is not None
        bias = torch.zeros_like(bias) if more is None else bias + more
        return pack(packed.shape, depthwise, pointwise, bias, self._impl)

    def conv(
        self,
        packed: Packed,
        x: Stream,
        shortcut: Stream | None = None,
        projection: Packed | None = None,
    ) -> Stream:
        """Adds f(W (w * x) + b + projection(shortcut))."""
        (left, right), stride = packed.shape.padding, packed.shape.stride
        self._keep(x, left + right // stride * stride)
        if shortcut is not None:
            self._keep(shortcut, 0)
        y = self._ring(packed.shape.c_out, self.specs[x.ring].rate // stride)
        self.ops.append(RingConv(packed, x, y.ring, shortcut, projection))
        return y

    def _plain(self, layer: StreamLayer, x: Stream) -> Stream:
        op, spec = self.ops[-1] if len(self.ops) else None, self.specs[x.ring]
        channels = layer.channels_out(spec.channels)
        rate = spec.rate // layer.stride * layer.rate
        if isinstance(op, RingLayer) and op.target == x.ring and not (x.wait or spec.shared):
            # only this op reads its earlier output
            op.row = Serial(*op.row, layer)
            spec.channels, spec.rate = channels, rate
            return x
        y = self._ring(channels, rate)
        new = RingLayer(self._keep(x, 0), y.ring, layer, spec.channels, len(self.layers()))
        self.ops.append(new)
        return y

    def _ring(self, channels: int, rate: int) -> Stream:
        self.specs.append(RingSpec(channels, rate, self._kept_as))
        return Stream(len(self.specs) - 1)

    def _keep(self, x: Stream, frames: int) -> Stream:
        """Makes room for a reader of `frames` frames before the newest."""
        spec = self.specs[x.ring]
        spec.keep = max(spec.keep, frames + x.wait)
        return x


class Memory:
    """The state of a net for `rows` sessions, with one more row that is never used.

    A step makes at most `most_strides` strides. `bytes_each` is the memory of a session.
    """

    def __init__(
        self, net: RingNet, rows: int, most_strides: int, device: torch.device | str = "cpu"
    ) -> None:
        self.dtype = net.dtype
        self.counts = torch.zeros(rows + 1, dtype=torch.int64, device=device)
        self.states, self._fresh = (
            [op.init_state(n, net.dtype, device) for op in net.layers()] for n in (rows + 1, 1)
        )
        lengths = [spec.keep + most_strides * spec.rate for spec in net.specs]
        dtypes = [spec.dtype for spec in net.specs]
        shapes = [(n, spec.channels) for n, spec in zip(lengths, net.specs, strict=True)]
        frames, self._frames = _parts(shapes, dtypes, rows + 1, device)
        kinds = [torch.uint8] * len(lengths)
        valid, self._valid = _parts([(n,) for n in lengths], kinds, rows + 1, device)
        self.rings = [
            Ring(x, marks, spec.rate)
            for x, marks, spec in zip(frames, valid, net.specs, strict=True)
        ]
        self.bytes_each = sum(x[0].numel() * x.element_size() for x in self.tensors()[:-1])

    def tensors(self) -> list[Tensor]:
        """All tensors of the sessions, each `[rows + 1, ...]`; the last one is `counts`."""
        return [*self._frames, *self._valid, *tensors_of(tuple(self.states)), self.counts]

    @torch.inference_mode()
    def reset(self, rows: Tensor) -> None:
        """Resets rows `[n]`."""
        for tensor in (*self._frames, *self._valid, self.counts):
            tensor.index_fill_(0, rows, 0)
        for state, fresh in zip(self.states, self._fresh, strict=True):
            for tensor, first in zip(tensors_of(state), tensors_of(fresh), strict=True):
                tensor[rows] = first


def read(ring: Ring, active: ActiveRows, wait: int) -> Chunk:
    """The frames that a step has added to a ring, or those `wait` before."""
    return Chunk(*ring.read(active, wait, active.strides * ring.rate))


def _parts(
    shapes: Sequence[tuple[int, ...]],
    dtypes: Sequence[torch.dtype],
    rows: int,
    device: torch.device | str,
) -> tuple[list[Tensor], list[Tensor]]:
    """Tensors `[rows, *shape]` of zeros, as views of one large tensor per dtype, and these.

    So the state has few tensors at any depth of the net, and a session starts with few launches.
    """
    sizes = [math.prod(shape) for shape in shapes]
    padded = [-(-size // ALIGNED) * ALIGNED for size in sizes]
    counts = {d: sum(n for n, e in zip(padded, dtypes, strict=True) if e == d) for d in dtypes}
    whole = {d: torch.zeros(rows, n, dtype=d, device=device) for d, n in counts.items()}
    ends = dict.fromkeys(dtypes, 0)
    parts = []
    for shape, size, room, dtype in zip(shapes, sizes, padded, dtypes, strict=True):
        part = whole[dtype][:, ends[dtype] : ends[dtype] + size]
        parts.append(part.unflatten(1, shape))
        ends[dtype] += room
    return parts, list(whole.values())


def _name(layer: nn.Module) -> str:
    return type(unwrapped(layer)).__name__
