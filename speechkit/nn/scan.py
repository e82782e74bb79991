"""A linear recurrence over all frames at once."""

import torch
import torch.nn.functional as F
from torch import Tensor

EXPORTED_LEVELS = 24
"""The doublings of an exported scan, whose length is unknown: enough for 2²⁴ frames."""


def scan(a: Tensor, u: Tensor, h: Tensor) -> Tensor:
    """h_t = a_t h_{t−1} + u_t for every frame t, where `h` is the value before the first frame.

    Real or complex. It is computed by doubling, with log₂ T products of whole tensors instead of T
    products of frames (Hillis & Steele, Data parallel algorithms, 1986). Shape: a and u
    `[B, T, ...]`, h `[B, ...]` → `[B, T, ...]`; dimensions in which a is constant may be 1.
    """
    frames = u.shape[1]
    y = torch.cat([u[:, :1] + a[:, :1] * h.unsqueeze(1), u[:, 1:]], dim=1)
    levels = EXPORTED_LEVELS if is_open(frames) else max(frames - 1, 0).bit_length()
    for level in range(levels):
        y = y + a * _later(y, 2**level)
        a = a * _later(a, 2**level)
    return y


def _later(x: Tensor, frames: int) -> Tensor:
    """x shifted by a number of frames, after zeros. Shape: `[B, T, ...]` → the same."""
    return F.pad(x, (0, 0) * (x.ndim - 2) + (frames, 0))[:, : x.shape[1]]


def is_open(frames: int) -> bool:
    """Whether a graph is being exported for any number of frames, or may be: dynamo hides which."""
    hidden = torch.compiler.is_exporting() and torch.compiler.is_dynamo_compiling()
    return hidden or isinstance(frames, torch.SymInt)
