"""Parts shared by front ends: exact tables, full precision, and layers that cannot stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from speechkit.errors import StreamError
from speechkit.nn.stream import Chunk, State, StreamLayer

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value


class Table(nn.Module):
    """A constant that follows the module's device and dtype and is not in the state dict.

    `exact` is float64, whatever its shape; `table(x)` is its value in the dtype of `x`.
    """

    value: Tensor

    def __init__(self, exact: Tensor) -> None:
        super().__init__()
        self._exact = exact
        self.register_buffer("value", exact.float(), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Table:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # cast from float64 again, so that .double() does not keep float32's rounding
        dtype = torch.promote_types(self.value.dtype, torch.float32)
        self.value = self._exact.to(self.value.device, dtype)
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.value.to(x.dtype)


class Project(StreamLayer):
    """y = table · x in every frame: a filterbank or a cosine transform.

    Shape: table `[C', C]`, x `[B, C, T]`, y `[B, C', T]`.
    """

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = Table(table)

    def channels_out(self, c_in: int) -> int:
        return self.table.value.shape[0]

    def forward(self, c: Chunk) -> Chunk:
        with full_precision(c.x):
            y = c.x.transpose(1, 2) @ self.table(c.x).T
        return Chunk(y.transpose(1, 2), c.valid)

    def lower(self, program: Lowering, x: Value) -> Value:
        table = self.table.value
        return program.emit("bands", x, channels=len(table), weights=table.float())

    def macs(self, frames: int) -> int:
        return self.table.value.numel() * frames


class Offline(StreamLayer):
    """A layer that reads the whole utterance; its step raises StreamError with an alternative."""

    instead: str

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        raise StreamError(
            f"{type(self).__name__} reads the whole utterance and cannot be streamed; "
            f"use {self.instead}"
        )


def full_precision(x: Tensor) -> Any:
    """A context without autocast, because power spectra overflow in half precision."""
    return torch.autocast(x.device.type, enabled=False)
