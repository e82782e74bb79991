"""Normalization of features, over an utterance or along a stream."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.errors import AudioError, ComponentError
from speechkit.frontend.base import Offline, full_precision
from speechkit.nn.stream import Chunk, Recurrent, Serial, State, StreamLayer

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value

EPSILON = 1e-5
BLOCK_FRAMES = 64


class PerFeature(Offline):
    """y = (x − mean) / (std + 1e-5) over the row's valid frames; invalid frames become zero.

    std is the unbiased one, 0 for a single frame. Shape: `[B, F, T]` → the same.
    Source: NeMo `normalize_batch`.
    """

    left = right = math.inf
    instead = "normalize='fixed' or normalize='running'"

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features

    def forward(self, c: Chunk) -> Chunk:
        x, frames = c.masked.transpose(1, 2), c.lengths[:, None, None]
        mean = x.sum(1, keepdim=True) / frames.clamp(min=1)
        centred = (x - mean).masked_fill(~c.valid[:, :, None], 0)
        variance = centred.square().sum(1, keepdim=True) / (frames - 1).clamp(min=1)
        return Chunk((centred / (variance.sqrt() + EPSILON)).transpose(1, 2), c.valid)


class Fixed(StreamLayer):
    """y = (x − mean) / std with statistics of the training data, stored with the weights.

    They are 0 and 1 until `fit`. Shape: `[B, F, T]` → the same.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))

    @torch.no_grad()
    def fit(self, chunks: Iterable[Chunk]) -> None:
        """Sets mean and std (unbiased, + 1e-5) from the valid frames of feature chunks."""
        features = self.mean.shape[0]
        frames, mean = 0, torch.zeros(features, dtype=torch.float64)
        scatter = torch.zeros_like(mean)
        for c in chunks:
            x = c.x.transpose(1, 2)[c.valid].cpu().double()
            if not len(x):
                continue
            # parts are merged around their own means, to avoid differences of large squares
            offset = x.mean(0) - mean
            total = frames + len(x)
            scatter += (x - x.mean(0)).square().sum(0) + offset.square() * frames * len(x) / total
            mean += offset * len(x) / total
            frames = total
        if frames < 2:
            raise AudioError(f"statistics of {frames} valid frames; give at least 2")
        self.mean.copy_(mean)
        self.std.copy_((scatter / (frames - 1)).sqrt() + EPSILON)

    def forward(self, c: Chunk) -> Chunk:
        return Chunk((c.x - self.mean[:, None]) / self.std[:, None], c.valid)

    def lower(self, program: Lowering, x: Value) -> Value:
        scale = 1 / self.std.double()
        return program.affine(x, scale, -self.mean.double() * scale)


class Running(Recurrent, Fixed):
    """y_t = (x_t − m_t) / √(v_t + 1e-5) with decaying statistics of the valid frames so far.

        a   = exp(−1 / time_constant_frames)
        n_t = a n_{t−1} + 1                         m_t = s_t / n_t,  s_t = a s_{t−1} + x_t
        q_t = a q_{t−1} + (1 − 1/n_t) (x_t − m_{t−1})²                v_t = q_t / n_t

    starting from n_0 = prior_frames frames of the stored mean and std (0 and 1 until `fit`). An
    invalid frame changes nothing. Shape: `[B, F, T]` → the same.
    """

    def __init__(
        self, features: int, time_constant_frames: float = 300, prior_frames: float = 10
    ) -> None:
        super().__init__(features)
        if time_constant_frames <= 0 or prior_frames <= 0:
            raise ComponentError(
                f"time_constant_frames {time_constant_frames}, prior_frames {prior_frames}: "
                "give more than 0"
            )
        self.time_constant_frames = time_constant_frames
        self.prior_frames = prior_frames

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        mean, std = (table.to(device=device, dtype=dtype) for table in (self.mean, self.std))
        n = mean.new_full((batch, 1, 1), self.prior_frames)
        return n, n * mean, n * std.square()

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        parts = []
        blocks = c.masked.transpose(1, 2).split(BLOCK_FRAMES, 1), c.valid.split(BLOCK_FRAMES, 1)
        for x, valid in zip(*blocks, strict=True):
            y, state = self._block(x, valid, state)
            parts.append(y)
        return Chunk(torch.cat(parts, dim=1).transpose(1, 2), c.valid), state

    def _block(self, x: Tensor, valid: Tensor, state: State) -> tuple[Tensor, State]:
        decay = _decay(valid, self.time_constant_frames, x.dtype)

        def accumulate(before: Tensor, now: Tensor) -> Tensor:
            """z_t = a z_{t−1} + now_t for the whole block, with z_0 = before in front."""
            return decay @ torch.cat([before, now], dim=1)

        real = valid[:, :, None].to(x.dtype)
        with full_precision(x):
            n = accumulate(state[0], real)
            s = accumulate(state[1], x)
            m = s / n
            surprise = (x - m[:, :-1]) * real
            q = accumulate(state[2], (1 - 1 / n[:, 1:]) * surprise.square())
        y = (x - m[:, 1:]) / (q / n + EPSILON)[:, 1:].sqrt()
        return y, (n[:, -1:], s[:, -1:], q[:, -1:])

    def lower(self, program: Lowering, x: Value) -> Value:
        return self.lower_running(program, x)

    def lower_running(
        self, program: Lowering, x: Value, scale: Tensor | None = None, shift: Tensor | None = None
    ) -> Value:
        """Adds the step of the norm to a native program, then y · scale + shift per channel."""
        return program.emit(
            "running_norm",
            x,
            weights=program.scales(x, scale, shift),
            filters=torch.stack([self.mean, self.std.square()]).detach(),
            numbers=[math.exp(-1 / self.time_constant_frames), self.prior_frames, EPSILON],
        )

    def exportable(self) -> StreamLayer:
        return _scanned(self)

    def extra_repr(self) -> str:
        return f"time_constant_frames={self.time_constant_frames}, prior_frames={self.prior_frames}"


class PCEN(Recurrent):
    """y = (E_t / (ε + m_t)^gain + bias)^power − bias^power, E = exp(x), m_t the decaying mean.

        a   = exp(−1 / time_constant_frames)
        m_t = s_t / n_t,  n_t = a n_{t−1} + 1,  s_t = a s_{t−1} + E_t,  n_0 = s_0 = 0

    An invalid frame changes nothing. With gain 1 a louder recording gives the same y.
    Shape: x `[B, F, T]` log energies, y the same. Paper: arXiv:1607.05666.
    """

    def __init__(
        self,
        features: int,
        time_constant_frames: float = 40,
        gain: float = 0.98,
        bias: float = 2.0,
        power: float = 0.5,
        epsilon: float = 1e-6,
    ) -> None:
        super().__init__()
        if min(time_constant_frames, power, epsilon) <= 0 or min(gain, bias) < 0:
            raise ComponentError(
                f"time_constant_frames {time_constant_frames}, power {power}, epsilon {epsilon}, "
                f"gain {gain}, bias {bias}: give more than 0, for the last two not less"
            )
        self.time_constant_frames = time_constant_frames
        self.gain, self.bias, self.power, self.epsilon = gain, bias, power, epsilon

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        none = torch.zeros(batch, 1, 1, dtype=dtype, device=device)
        return none, none.expand(batch, 1, c_in)

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        parts = []
        n, s = state
        blocks = c.masked.transpose(1, 2).split(BLOCK_FRAMES, 1), c.valid.split(BLOCK_FRAMES, 1)
        for x, valid in zip(*blocks, strict=True):
            with full_precision(x):
                decay = _decay(valid, self.time_constant_frames, x.dtype)
                real = valid[:, :, None].to(x.dtype)
                n = decay @ torch.cat([n, real], dim=1)
                s = decay @ torch.cat([s, x.exp() * real], dim=1)
                # n is 0 only before the first valid frame, where s is too
                m = (s / n.clamp(min=1e-9))[:, 1:]
                y = (x - self.gain * torch.log(self.epsilon + m)).exp()
                parts.append((y + self.bias) ** self.power - self.bias**self.power)
            n, s = n[:, -1:], s[:, -1:]
        return Chunk(torch.cat(parts, dim=1).transpose(1, 2), c.valid), (n, s)

    def lower(self, program: Lowering, x: Value) -> Value:
        decay = math.exp(-1 / self.time_constant_frames)
        numbers = [decay, self.gain, self.bias, self.power, self.epsilon]
        return program.emit("pcen", x, numbers=numbers)

    def exportable(self) -> StreamLayer:
        return _scanned(self)

    def extra_repr(self) -> str:
        return (
            f"time_constant_frames={self.time_constant_frames}, gain={self.gain}, "
            f"bias={self.bias}, power={self.power}, epsilon={self.epsilon}"
        )


class PCENAndLevel(Recurrent):
    """y = [PCEN(x), (x − offset) / scale]: each band against its own past, and its level.

    The first half does not depend on the level of the recording, the second tells a quiet room
    from loud speech. Its floor is that of the energies x. The other parameters are those of `PCEN`.
    Shape: x `[B, F, T]` log energies, y `[B, 2F, T]`.
    """

    def __init__(
        self,
        features: int,
        time_constant_frames: float = 40,
        gain: float = 0.98,
        bias: float = 2.0,
        power: float = 0.5,
        epsilon: float = 1e-6,
        offset: float = -8.0,
        scale: float = 4.0,
    ) -> None:
        super().__init__()
        if scale <= 0:
            raise ComponentError(f"scale {scale}; give more than 0")
        self.pcen = PCEN(features, time_constant_frames, gain, bias, power, epsilon)
        self.offset, self.scale = offset, scale

    def channels_out(self, c_in: int) -> int:
        return 2 * c_in

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        return self.pcen.init_state(batch, c_in, dtype, device)

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        relative, state = self.pcen.step(c, state)
        level = (c.masked - self.offset) / self.scale
        return Chunk(torch.cat([relative.x, level], dim=1), c.valid), state

    def lower(self, program: Lowering, x: Value) -> Value:
        scale = torch.full((x.channels,), 1 / self.scale)
        level = program.affine(x, scale, -self.offset * scale)
        return program.join(program.add(self.pcen, x), level)

    def exportable(self) -> StreamLayer:
        return _scanned(self)

    def extra_repr(self) -> str:
        return f"offset={self.offset}, scale={self.scale}"


def _scanned(layer: Recurrent) -> StreamLayer:
    # torch's loop takes a second to import
    from speechkit.frontend.scanned import Scanned

    return Scanned(layer, BLOCK_FRAMES)


def _decay(valid: Tensor, time_constant_frames: float, dtype: torch.dtype) -> Tensor:
    """D with z_t = Σ_k D[t, k] now_k, where z_t = a z_{t−1} + now_t and now_0 is the z before.

    Shape: valid `[B, T]`, D `[B, T + 1, T + 1]`.
    """
    seen = F.pad(valid.cumsum(1), (1, 0))
    age = (seen[:, :, None] - seen[:, None]).clamp(min=0).to(dtype)
    return torch.exp(-age / time_constant_frames).tril()


class Unnormalized(StreamLayer):
    """y = x. Shape: `[B, F, T]` → the same."""

    def __init__(self, features: int) -> None:
        super().__init__()


def fit_statistics(frontend: nn.Module, audio: Iterable[Tensor]) -> None:
    """Fits the first layer of a front end that has a `fit(chunks)` to utterances `[N]`."""
    layers = list(_in_a_row(frontend))
    for index, layer in enumerate(layers):
        if fit := getattr(layer, "fit", None):
            before = Serial(*layers[:index])
            fit(before(Chunk.of(x[None, None])) for x in audio)
            return


def _in_a_row(layer: nn.Module) -> Iterator[StreamLayer]:
    """The layers of a Serial and of the Serials in it, in order."""
    if isinstance(layer, Serial):
        for part in layer:
            yield from _in_a_row(part)
    elif isinstance(layer, StreamLayer):
        yield layer
