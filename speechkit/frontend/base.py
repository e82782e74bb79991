"""What the layers of a front end share: exact tables, full precision, and a refusal to stream."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from speechkit.errors import StreamError
from speechkit.nn.stream import Chunk, State, StreamLayer


class TableLayer(StreamLayer):
    """A StreamLayer with one constant table, kept out of the state dict.

    `table` is given in float64 and follows the module's device and dtype, never below float32.
    """

    table: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self._exact = table
        self.register_buffer("table", table.float(), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "TableLayer":
        super()._apply(fn, recurse)
        # cast from float64 anew, so that .double() does not keep float32's rounding
        dtype = torch.promote_types(self.table.dtype, torch.float32)
        self.table = self._exact.to(self.table.device, dtype)
        return self


class Project(TableLayer):
    """y = table · x in every frame: a filterbank or a cosine transform.

    Shape: table `[C', C]`, x `[B, C, T]`, y `[B, C', T]`.
    """

    def channels_out(self, c_in: int) -> int:
        return self.table.shape[0]

    def forward(self, c: Chunk) -> Chunk:
        with full_precision(c.x):
            y = c.x.transpose(1, 2) @ self.table.to(c.x.dtype).T
        return Chunk(y.transpose(1, 2), c.valid)


class Offline(StreamLayer):
    """A layer that reads the whole utterance; its step refuses and says what streams instead."""

    instead: str

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        raise StreamError(
            f"{type(self).__name__} reads the whole utterance and cannot be streamed; "
            f"use {self.instead}"
        )


def full_precision(x: Tensor) -> Any:
    """A context without autocast: half precision overflows on power spectra."""
    return torch.autocast(x.device.type, enabled=False)
