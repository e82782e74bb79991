"""Layers that compute in blocks of frames and carry a memory from block to block."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from speechkit.errors import ComponentError
from speechkit.nn import Chunk, State, StreamLayer
from speechkit.nn.scan import is_open


class Blockwise(StreamLayer):
    """Blocks of `size` frames; a memory goes from each block of a row to its next one.

    Each row has blocks of its own: the first begins at the row's first valid frame, wherever that
    is in a chunk, and a row whose state is reset begins anew. A subclass
    defines with `update` what a block returns and what the next memory is.

    With `waits=False` a block is `size` valid frames; other frames are as if they were not there.
    A frame leaves in the step in which it came: `read` computes it from the last `size` frames and
    the memory. With `waits=True` a frame leaves with its whole block, `size − 1` frames later, as
    `update` returns it. A block then is `size` frames in a row, of which invalid ones are masked.

    Shape: `[B, C, T]` → `[B, C', T]`; state: the first `held` channels of the last size − 1 frames,
    which of them are valid, how many frames there were, and the memory `[B, S, D]`, in float32 at
    least.
    """

    left = math.inf

    def __init__(self, size: int, held: int, waits: bool = False) -> None:
        super().__init__()
        if size < 2:
            raise ComponentError(f"window={size}: give a number of frames from 2 up")
        self.size, self.held, self.waits = size, held, waits
        self.delay = self.right = size - 1 if waits else 0

    @abstractmethod
    def begin(self) -> Tensor:
        """The memory before the first block of a row, `[S, D]`."""

    @abstractmethod
    def update(self, block: Tensor, valid: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """The frames of a block as they leave, and the next memory.

        block `[B, size, held]`, valid `[B, size]`, memory `[B, S, D]`.
        """

    def read(
        self, new: Tensor, frames: Tensor, valid: Tensor, memory: list[Tensor], own: Tensor
    ) -> Tensor:
        """The output `[B, n, C']` of n ≤ `size` new frames `[B, n, C]`, if the layer does not wait.

        frames `[B, size − 1 + n, held]` are the last ones and the new ones, valid `[B, size − 1 +
        n]`. Frame i reads memory number own[b, i], since a block may end among the new frames.
        """
        raise AssertionError("a layer that does not wait defines read")

    def enter(self, x: Tensor) -> Tensor:
        """The input `[B, T, C]` in the form that is held."""
        return x

    def forward(self, c: Chunk) -> Chunk:
        batch, channels, frames = c.x.shape
        # the loop over blocks would be traced for minutes, for one number of frames
        if is_open(frames):
            raise RuntimeError("a whole recording may have any number of blocks")
        x = F.pad(c.x.transpose(1, 2), (0, 0, 0, self.delay)).transpose(1, 2)
        state = self.init_state(batch, channels, c.x.dtype, c.x.device)
        y, _ = self.step(Chunk(x, F.pad(c.valid, (0, self.delay))), state)
        return Chunk(y.x[:, :, self.delay :], y.valid[:, self.delay :])

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        past = torch.zeros(batch, self.size - 1, self.held, dtype=dtype, device=device)
        valid = torch.zeros(batch, self.size - 1, dtype=torch.bool, device=device)
        count = torch.zeros(batch, 1, dtype=torch.int64, device=device)
        wide = torch.promote_types(dtype, torch.float32)
        memory = torch.zeros(batch, *self.begin().shape, dtype=wide, device=device)
        return past, valid, count, memory

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        batch, channels, frames = c.x.shape
        if not frames:
            return Chunk(c.x.new_zeros(batch, self.channels_out(channels), 0), c.valid), state
        counted = (c.valid.cumsum(1) > 0) | (state[2] > 0) if self.waits else c.valid
        order, rank = _compact(counted)
        x = self.enter(_take(c.masked.transpose(1, 2), order))
        total = counted.sum(1, keepdim=True)
        valid = c.valid.gather(1, order) & (torch.arange(frames, device=x.device) < total)
        parts, marks = [], []
        # a part is so short that at most one block of each row ends in it
        for start in range(0, frames, self.size):
            new, real = x[:, start : start + self.size], valid[:, start : start + self.size]
            here = (total - start).clamp(0, new.shape[1])
            y, mark, state = self._part(new, real, here, state)
            parts.append(y)
            marks.append(mark)
        y = torch.where(counted[:, :, None], _take(torch.cat(parts, dim=1), rank), 0)
        out = torch.cat(marks, dim=1).gather(1, rank) & counted
        return Chunk(y.transpose(1, 2), out), state

    def _part(
        self, new: Tensor, real: Tensor, here: Tensor, state: State
    ) -> tuple[Tensor, Tensor, State]:
        """The output for n ≤ `size` frames, of which each row has the first `here`, and its valid.

        new `[B, n, C]`, real `[B, n]`, here `[B, 1]`.
        """
        past, past_valid, count, memory = state
        frames = torch.cat([past, new[:, :, : self.held]], dim=1)
        valid = torch.cat([past_valid, real], dim=1)
        # a row without a whole block has the first memory
        memory = torch.where((count < self.size)[:, :, None], self.begin(), memory)
        # the number of the new frame with which a block ends, if the row has so many
        last = self.size - 1 - count % self.size
        frames, memories = self._pass_border(frames, valid, last, here > last, memory)
        if self.waits:
            y, real = frames[:, : new.shape[1]], valid[:, : new.shape[1]]
        else:
            behind = torch.arange(new.shape[1], device=new.device) > last
            y = self.read(new, frames, valid, memories, behind.long() * (len(memories) - 1))
        kept = here + torch.arange(self.size - 1, device=new.device)
        count = count + here
        # the same phase, in a number that stays small in an endless stream
        count = torch.where(count < 2 * self.size, count, self.size + count % self.size)
        return y, real, (_take(frames, kept), valid.gather(1, kept), count, memories[-1])

    def _pass_border(
        self, frames: Tensor, valid: Tensor, last: Tensor, ends: Tensor, memory: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """The frames, and the memory before and after the blocks that end, if any does."""
        recorded = torch.compiler.is_compiling() or torch._C._get_tracing_state()
        # in training each parameter has a gradient, also where no utterance has a whole block
        if not (recorded or self.training or bool(ends.any())):
            return frames, [memory]
        place = last + torch.arange(self.size, device=frames.device)
        place = place.clamp(max=frames.shape[1] - 1)
        real = valid.gather(1, place)
        block, after = self.update(_take(frames, place), real, memory)
        if self.waits:
            index = torch.arange(frames.shape[1], device=frames.device) - last
            inside = ends & (index >= 0) & (index < self.size)
            block = _take(block, index.clamp(0, self.size - 1))
            frames = torch.where(inside[:, :, None], block, frames)
        changed = ends & real.any(1, keepdim=True)
        return frames, [memory, torch.where(changed[:, :, None], after.to(memory.dtype), memory)]


def _compact(counted: Tensor) -> tuple[Tensor, Tensor]:
    """The place of the r-th counted frame, and the r of each frame, both `[B, T]`."""
    frames = counted.shape[1]
    rank = counted.cumsum(1) - 1
    # those that are not counted go behind the end
    target = torch.where(counted, rank, frames)
    frame = torch.arange(frames, device=counted.device).expand_as(rank)
    order = torch.zeros_like(F.pad(rank, (0, 1))).scatter(1, target, frame)
    return order[:, :frames], rank.clamp(min=0)


def _take(x: Tensor, index: Tensor) -> Tensor:
    """The frames of each row at `index [B, N]`; x `[B, T, C]` → `[B, N, C]`."""
    return x.gather(1, index[:, :, None].expand(-1, -1, x.shape[2]))
