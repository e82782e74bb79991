"""Engines that compute the scores of a batch of sessions block by block: torch or native."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechkit.data.samples import Samples, as_samples, is_sound
from speechkit.errors import StreamError
from speechkit.models import Model, evaluating
from speechkit.nn import Chunk, StreamLayer
from speechkit.nn.states import arrays_of, in_numpy, rebuilt, restored, tensors_of
from speechkit.plans.engine import Steps
from speechkit.streaming.engines.native.layer import NativeLayer
from speechkit.streaming.state import State

MOST_KEPT = 16
"""Buffers for more blocks than this are not kept between calls, since they are large."""


class Scored(NamedTuple):
    """The scores of some blocks, `[size, blocks, T, n]`, and their validity, `[size, blocks, T]`.

    They may be overwritten when the engine computes the next ones.
    """

    scores: Tensor
    valid: Tensor

    def row(self, row: int) -> tuple[Tensor, Tensor]:
        """The scores and validity of one session."""
        return self.scores[row], self.valid[row]


class TorchEngine:
    """`size` sessions whose blocks go through a layer's `step`."""

    def __init__(self, model: Model, layer: StreamLayer, size: int, block_samples: int) -> None:
        self.model, self.layer, self.size, self.block_samples = model, layer, size, block_samples
        weight = next(model.parameters())
        self._device = weight.device
        # filled in place, so that memory does not grow with time
        self._pending = torch.zeros(size, 1, block_samples, dtype=weight.dtype)
        self.filled = 0
        self._state = layer.init_state(size, 1, weight.dtype, weight.device)

    def feed(self, samples: Samples | Sequence[Samples]) -> Scored | None:
        """The blocks that the next samples `[size, N]` complete, if any."""
        x = torch.tensor(rows_of(samples, self.size), dtype=self._pending.dtype)
        blocks, at = [], 0
        while at < x.shape[1]:
            take = min(self.block_samples - self.filled, x.shape[1] - at)
            self._pending[:, 0, self.filled : self.filled + take] = x[:, at : at + take]
            self.filled += take
            at += take
            if self.filled == self.block_samples:
                blocks.append(self._run(self.block_samples))
                self.filled = 0
        return _concat(blocks)

    def flush(self) -> Scored | None:
        """The scores of the remaining blocks, once the audio has ended."""
        waiting = self.layer.delay * self.layer.stride // self.layer.rate
        self._pending[:, :, self.filled :] = 0
        blocks = []
        for _ in range(-(-(self.filled + waiting) // self.block_samples)):
            blocks.append(self._run(self.filled))
            self.filled = 0
            self._pending.zero_()
        return _concat(blocks)

    @torch.inference_mode()
    def reset(self, row: int) -> None:
        """Starts a row anew."""
        chosen = torch.arange(self.size, device=self._device) == row
        fresh = self.layer.init_state(self.size, 1, self._pending.dtype, self._device)
        mixed = [
            torch.where(chosen.view(-1, *[1] * (old.ndim - 1)), new, old)
            for old, new in zip(tensors_of(self._state), tensors_of(fresh), strict=True)
        ]
        self._state = rebuilt(self._state, iter(mixed))

    def arrays(self) -> State:
        """All numbers that the next block depends on; `filled` is separate."""
        return {**arrays_of(self._state), "pending": in_numpy(self._pending).numpy()}

    def restore(self, arrays: State, filled: int) -> None:
        """Restores the state that `arrays` returned."""
        self._pending = torch.from_numpy(arrays.pop("pending")).to(self._pending)
        self._state = restored(self._state, arrays.values())
        self.filled = filled

    @torch.inference_mode()
    def _run(self, real: int) -> Scored:
        """One step over the pending block, whose first `real` samples are valid."""
        x = self._pending.to(self._device)
        valid = torch.arange(self.block_samples, device=self._device) < real
        with evaluating(self.model):
            out, self._state = self.layer.step(Chunk(x, valid.expand(self.size, -1)), self._state)
        return Scored(in_numpy(out.x.transpose(1, 2)).cpu()[:, None], out.valid.cpu()[:, None])


def _concat(blocks: list[Scored]) -> Scored | None:
    if not blocks:
        return None
    return Scored(*(torch.cat(parts, dim=1) for parts in zip(*blocks, strict=True)))


class NativeEngine:
    """`size` sessions whose blocks are computed by one native call for each feed."""

    def __init__(self, layer: NativeLayer, size: int) -> None:
        self.layer, self.size = layer, size
        self._sessions = layer.new_sessions(size)
        self._steps: dict[int, Steps] = {}
        self._is_sound = layer.plan.library.stream_is_sound
        # samples of the incomplete block are from start to end
        self._sound = np.empty((size, 0), dtype=np.float32)
        self._address = self._start = self._end = 0

    @property
    def filled(self) -> int:
        """The number of samples in the incomplete block."""
        return self._end - self._start

    def feed(self, samples: Samples | Sequence[Samples]) -> Scored | None:
        """The blocks that the next samples `[size, N]` complete, if any."""
        # most live samples need no conversion, which C++ checks quickly
        if not (
            type(samples) is np.ndarray
            and samples.dtype == np.float32
            and samples.ndim == 2
            and len(samples) == self.size
            and self._take(samples)
        ):
            self._append(rows_of(samples, self.size))
        block = self.layer.block_samples
        count = self.filled // block
        return self._run(count, count * block) if count else None

    def flush(self) -> Scored | None:
        """The scores of the remaining blocks, once the audio has ended."""
        waiting = self.layer.delay * self.layer.stride // self.layer.rate
        real, block = self.filled, self.layer.block_samples
        count = -(-(real + waiting) // block)
        if not count:
            return None
        self._append(np.zeros((self.size, count * block - real), dtype=np.float32))
        return self._run(count, real)

    def reset(self, row: int) -> None:
        """Starts a row anew."""
        self._sessions.start(row)

    def arrays(self) -> State:
        """All numbers that the next block depends on; `filled` is separate."""
        pending = np.zeros((self.size, self.layer.block_samples), dtype=np.float32)
        pending[:, : self.filled] = self._sound[:, self._start : self._end]
        return {**self._sessions.arrays(), "pending": pending}

    def restore(self, arrays: State, filled: int) -> None:
        """Restores the state that `arrays` returned."""
        pending = arrays.pop("pending")
        self._sessions.restore(arrays)
        self._end = self._start
        self._append(pending[:, :filled])

    def _take(self, samples: NDArray[np.float32]) -> bool:
        """Appends samples and returns True, or False if one is not within [-1, 1]."""
        self._append(samples)
        count = samples.shape[1]
        address = self._address + 4 * (self._end - count)
        sound: bool = self._is_sound(address, self._sound.shape[1], self.size, count)
        if not sound:
            self._end -= count
        return sound

    def _append(self, samples: NDArray[np.float32]) -> None:
        """Appends samples to the incomplete block."""
        end = self._end + samples.shape[1]
        if end > self._sound.shape[1]:
            self._make_room(samples.shape[1])
            end = self._end + samples.shape[1]
        self._sound[:, self._end : end] = samples
        self._end = end

    def _make_room(self, count: int) -> None:
        """Moves waiting samples to the beginning, and allocates if `count` more do not fit."""
        waiting = self._sound[:, self._start : self._end]
        self._start, self._end = 0, self.filled
        room = max(self._end + count, MOST_KEPT * self.layer.block_samples)
        # the memory of a long feed is released by the next one
        if room != self._sound.shape[1]:
            self._sound = np.empty((self.size, room), dtype=np.float32)
            self._address = self._sound.ctypes.data
        self._sound[:, : self._end] = waiting

    def _run(self, blocks: int, real: int) -> Scored:
        """Steps over the first waiting blocks, of which the first `real` samples are valid."""
        steps = self._steps.get(blocks)
        if steps is None:
            steps = self._sessions.steps(self.size, blocks)
            if blocks <= MOST_KEPT:
                self._steps[blocks] = steps
        steps.real.fill(real)
        steps.at(self._address + 4 * self._start, self._sound.shape[1], self.size)
        self._start += blocks * self.layer.block_samples
        return Scored(torch.from_numpy(steps.y), torch.from_numpy(steps.valid))


def rows_of(samples: Samples | Sequence[Samples], size: int) -> NDArray[np.float32]:
    """The samples of `size` sessions as float32 `[size, N]`, checked."""
    if is_sound(samples, 2) and len(samples) == size:
        return np.ascontiguousarray(samples)
    if not isinstance(samples, Sequence) and not getattr(samples, "ndim", 0):
        raise StreamError(f"cannot read {type(samples).__name__} as {size} rows of samples")
    rows = [as_samples(row) for row in samples]
    if len(rows) != size or len({len(row) for row in rows}) > 1:
        raise StreamError(
            f"{len(rows)} rows of {sorted({len(row) for row in rows})} samples; "
            f"give {size} rows of one length"
        )
    return np.stack(rows)
