"""Statistics along a recording in a form that can be exported."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._higher_order_ops.scan import scan

from speechkit.nn.stream import Chunk, State, StreamLayer


class Scanned(StreamLayer):
    """A layer that carries statistics along: a whole recording goes block by block through its
    step, in a loop that torch can export.

    Shape: `[B, F, T]` → the same.
    """

    def __init__(self, layer: StreamLayer, block_frames: int) -> None:
        super().__init__()
        self.layer = layer
        self.block_frames = block_frames
        self.left = layer.left

    def forward(self, c: Chunk) -> Chunk:
        batch, features, frames = c.x.shape
        missing = -frames % self.block_frames
        x = F.pad(c.masked.transpose(1, 2), (0, 0, 0, missing)).unflatten(
            1, (-1, self.block_frames)
        )
        valid = F.pad(c.valid, (0, missing)).unflatten(1, (-1, self.block_frames))

        # a loop may not hand back what it was given, nor other strides: hence the copies
        def block(
            state: tuple[Tensor, ...], part: tuple[Tensor, Tensor]
        ) -> tuple[tuple[Tensor, ...], Tensor]:
            y, after = self.layer.step(Chunk(part[0].transpose(1, 2), part[1]), state)
            return tuple(map(_copy, after)), _copy(y.x.transpose(1, 2))

        start = self.layer.init_state(batch, features, c.x.dtype, c.x.device)
        blocks = x.transpose(0, 1), valid.transpose(0, 1)
        _, y = scan(block, tuple(map(_copy, start)), blocks)
        return Chunk(y.transpose(0, 1).flatten(1, 2)[:, :frames].transpose(1, 2), c.valid)

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        return self.layer.init_state(batch, c_in, dtype, device)

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        return self.layer.step(c, state)


def _copy(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.contiguous_format)
