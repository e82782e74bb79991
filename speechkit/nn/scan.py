"""A linear recurrence over all frames at once."""

import torch
import torch.nn.functional as F
from torch import Tensor

EXPORTED_LEVELS = 24
"""The doublings of an exported scan, whose length is unknown: enough for 2²⁴ frames."""


def scan(a: Tensor, u: Tensor, h: Tensor, *, pairs: bool = False) -> Tensor:
    """h_t = a_t h_{t−1} + u_t for every frame t, where `h` is the value before the first frame.

    Real or complex. With `pairs` complex in real tensors, as exported graphs need it: the first
    half of the last dimension are the real parts. It is computed by doubling, with log₂ T products
    of whole tensors instead of T products of frames (Hillis & Steele, Data parallel algorithms,
    1986). Shape: a and u `[B, T, ...]`, h `[B, ...]` → `[B, T, ...]`; dimensions in which a is
    constant may be 1.
    """
    frames, times = u.shape[1], _times if pairs else torch.mul
    y = torch.cat([u[:, :1] + times(a[:, :1], h.unsqueeze(1)), u[:, 1:]], dim=1)
    levels = EXPORTED_LEVELS if is_open(frames) else max(frames - 1, 0).bit_length()
    for level in range(levels):
        y = y + times(a, _later(y, 2**level))
        a = times(a, _later(a, 2**level))
    return y


def _times(x: Tensor, y: Tensor) -> Tensor:
    """The product of complex numbers in pairs."""
    (a, b), (c, d) = x.chunk(2, -1), y.chunk(2, -1)
    return torch.cat([a * c - b * d, a * d + b * c], dim=-1)


def _later(x: Tensor, frames: int) -> Tensor:
    """x shifted by a number of frames, after zeros. Shape: `[B, T, ...]` → the same."""
    return F.pad(x, (0, 0) * (x.ndim - 2) + (frames, 0))[:, : x.shape[1]]


def is_open(frames: int) -> bool:
    """Whether a graph is being exported for any number of frames, or may be: dynamo hides which."""
    hidden = torch.compiler.is_exporting() and torch.compiler.is_dynamo_compiling()
    return hidden or isinstance(frames, torch.SymInt)
