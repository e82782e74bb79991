"""Pooling over time: over the utterance, over the frames so far, or over the last frames."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from speechkit.errors import StreamError
from speechkit.nn.stream import Chunk, Recurrent, Serial, State, StreamLayer, Windowed

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value


class AveragePool(StreamLayer):
    """The mean of each row's valid frames: y[b, c] = Σ_t valid[b, t] x[b, c, t] / Σ_t valid[b, t].

    Shape: x `[B, C, T]`, y `[B, C, 1]`. It reads the whole utterance; `RunningAverage` streams.
    `nemo_compat` averages padding too, as NeMo's classifiers do.
    """

    left = right = math.inf

    def __init__(self, nemo_compat: bool = False) -> None:
        super().__init__()
        self.nemo_compat = nemo_compat

    def forward(self, c: Chunk) -> Chunk:
        some = torch.ones_like(c.valid[:, :1])
        if self.nemo_compat:
            return Chunk(c.x.mean(2, keepdim=True), some)
        count = c.lengths.clamp(min=1)[:, None, None]
        return Chunk(c.masked.sum(2, keepdim=True) / count, some)

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        raise StreamError("pool 'average' reads the whole utterance; use pool 'running' to stream")

    def running(self) -> StreamLayer:
        """The mean so far at every frame."""
        return RunningAverage()

    def sliding(self, frames: int) -> StreamLayer:
        """The mean of the last `frames` frames at every frame."""
        return SlidingAverage(frames)


class RunningAverage(Recurrent):
    """The mean of the valid frames so far: y[t] = Σ_{s ≤ t} valid[s] x[s] / Σ_{s ≤ t} valid[s].

    At a row's last frame it equals `AveragePool`. Shape: `[B, C, T]` → the same; state: the sums,
    the last of which is the count, and what rounding added to them, each `[B, C + 1]`, in float32
    at least. Without the second a float32 would not grow any more after some hours. Kahan, 1965.
    """

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        wide = torch.promote_types(dtype, torch.float32)
        return tuple(torch.zeros(batch, c_in + 1, dtype=wide, device=device) for _ in range(2))

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        before, rest = state
        counted = torch.cat([c.masked.transpose(1, 2), c.valid[:, :, None]], dim=2)
        given = counted.to(before.dtype).cumsum(1) - rest[:, None]
        sums = before[:, None] + given
        means = sums[:, :, :-1] / sums[:, :, -1:].clamp(min=1)
        y = Chunk(means.to(c.x.dtype).transpose(1, 2), c.valid)
        if not c.x.shape[2]:
            return y, state
        return y, (sums[:, -1], sums[:, -1] - before - given[:, -1])

    def lower(self, program: Lowering, x: Value) -> Value:
        return program.emit("running_average", x)


class SlidingAverage(Windowed):
    """The mean of the valid frames among the last `frames` frames.

    y[t] = Σ_s valid[s] x[s] / Σ_s valid[s] over t − frames < s ≤ t. Shape: `[B, C, T]` → the same.
    """

    def __init__(self, frames: int) -> None:
        super().__init__(left=frames - 1, right=0, stride=1)
        self.frames = frames

    def compute(self, x: Tensor, frames: int, valid: Tensor) -> Tensor:
        if not frames:
            return x[:, :, :0]
        sums = x.transpose(1, 2).unfold(1, self.frames, 1)[:, :frames].sum(3)
        count = valid.unfold(1, self.frames, 1)[:, :frames].sum(2).clamp(min=1)
        return (sums / count[:, :, None]).transpose(1, 2)

    def lower(self, program: Lowering, x: Value) -> Value:
        return program.emit("sliding_average", x, keep=self.keep, taps=self.frames, left=self.left)

    def extra_repr(self) -> str:
        return f"frames={self.frames}"


class ClipHead(StreamLayer):
    """Base class of heads that pool over time and return one score vector per utterance.

    Shape: x `[B, C, T]`, y `[B, labels, 1]`. A subclass defines `channels_out` and `forward`, and,
    to stream, `running` and `sliding`, which share its weights.
    """

    left = right = math.inf
    per_clip = True

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        raise StreamError(
            "a clip head reads the whole utterance; stream its running() or sliding()"
        )

    def running(self) -> StreamLayer:
        """The same scores as a stream: at every frame, those of the utterance so far."""
        # by default a head does not stream
        return self

    def sliding(self, frames: int) -> StreamLayer:
        """Scores as a stream: at every frame, those of the last `frames` frames."""
        return self


class PooledHead(ClipHead):
    """A pool over time, then a linear layer; it streams with a pool that has `running()` and
    `sliding(frames)`."""

    def __init__(self, pool: StreamLayer, linear: StreamLayer) -> None:
        super().__init__()
        self.pool = pool
        self.linear = linear

    def channels_out(self, c_in: int) -> int:
        return self.linear.channels_out(c_in)

    def forward(self, c: Chunk) -> Chunk:
        y: Chunk = self.linear(self.pool(c))
        return y

    def running(self) -> StreamLayer:
        return self._streamed("running")

    def sliding(self, frames: int) -> StreamLayer:
        return self._streamed("sliding", frames)

    def _streamed(self, name: str, *args: int) -> StreamLayer:
        make: Any = getattr(self.pool, name, None)
        return self if make is None else Serial(pool=make(*args), linear=self.linear)
