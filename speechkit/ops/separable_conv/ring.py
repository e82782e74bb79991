"""The state of many sessions: ring buffers of frames that ops read and write in place."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from speechkit.ops.separable_conv.shape import Shape

if TYPE_CHECKING:
    from speechkit.ops.separable_conv import Packed


@dataclass(frozen=True)
class ActiveRows:
    """The sessions that take part in a step, and their positions.

    Shape: slots `[N]` int64, the sessions' rows in the state, −1 for an unused entry; counts `[S]`
    int64, the number of strides of the net that each row has made. The last row is never used.
    """

    slots: Tensor
    counts: Tensor
    strides: int


@dataclass(frozen=True)
class Ring:
    """The last R frames of a stream in each row of the state: frame f lies at f mod R.

    `rate` frames make a stride of the net. Shape: frames `[S, R, C]`, zero where not valid; valid
    `[S, R]` uint8.
    """

    frames: Tensor
    valid: Tensor
    rate: int

    def read(self, active: ActiveRows, back: int, count: int) -> tuple[Tensor, Tensor]:
        """`count` frames `[N, C, count]`, the first `back` before the next, and their validity."""
        slots, at = self._at(active, -back, count)
        return self.frames[slots, at].transpose(1, 2), self.valid[slots, at] != 0

    def write(self, active: ActiveRows, x: Tensor, valid: Tensor) -> None:
        """Appends frames `[N, C, T]`, zeros where not valid."""
        slots, at = self._at(active, 0, x.shape[2])
        rows = torch.where(valid[:, :, None], x.transpose(1, 2), 0)
        self.frames[slots, at] = rows.to(self.frames.dtype)
        self.valid[slots, at] = valid.to(torch.uint8)

    def _at(self, active: ActiveRows, first: int, count: int) -> tuple[Tensor, Tensor]:
        frames = torch.arange(first, first + count, device=active.slots.device)
        before = active.counts[active.slots] * self.rate
        return active.slots[:, None], (before[:, None] + frames) % self.frames.shape[1]


class Shortcut(NamedTuple):
    """A residual from a ring, `wait` frames late, and the 1×1 convolution that is applied first.

    That convolution has neither bias nor activation.
    """

    ring: Ring
    wait: int = 0
    packed: "Packed | None" = None


def step(
    shape: Shape,
    run: Any,
    weights: tuple[Tensor | None, ...],
    source: Ring,
    target: Ring,
    active: ActiveRows,
    back: int,
    shortcut: Shortcut | None,
) -> None:
    """A step by an implementation without rings: its input is gathered first."""
    frames = active.strides * target.rate
    span = shape.dilation * (max(shape.taps, 1) - 1) + 1
    window, valid = source.read(active, back, (frames - 1) * shape.stride + span)
    valid = valid[:, shape.padding[0] :: shape.stride][:, :frames]
    residual = None
    if shortcut is not None:
        residual, _ = shortcut.ring.read(active, shortcut.wait, frames)
        residual = residual if shortcut.packed is None else shortcut.packed(residual)
    y = run(replace(shape, padding=(0, 0)), weights, window, None, residual)
    target.write(active, y, valid)
