"""The same compiled by numba, for machines without a C++ compiler.

Rows of frames are copied to panels of LANES channels, as in depthwise.h. A dilated convolution is
computed as `dilation` plain ones, each over every dilation-th frame.
"""

import functools
import importlib.util
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from speechkit.ops.native import sum_type

Array = NDArray[Any]

INSTALLED = importlib.util.find_spec("numba") is not None
DTYPES = (torch.float32, torch.float64, torch.bfloat16)
LANES = 32
"""Channels of a panel: a multiple of the register width of all processors."""
TILE = 4
"""The number of sums computed at once."""


def unsupported(x: Tensor, weight: Tensor) -> str | None:
    """Why this implementation cannot take these tensors, or None."""
    if x.device.type != "cpu":
        return f"it runs on the CPU, not on {x.device.type}"
    if x.dtype not in DTYPES:
        return f"it computes in float32, float64 and bfloat16, not {x.dtype}"
    return None if INSTALLED else "numba is not installed"


def depthwise_conv(
    x: Tensor,
    weight: Tensor,
    stride: int,
    dilation: int,
    padding: tuple[int, int],
    valid: Tensor | None,
) -> Tensor:
    """Shapes as the public function."""
    y: Tensor = DepthwiseConv.apply(x, weight, valid, dilation, padding)  # type: ignore[no-untyped-call]
    # few layers have a stride, so a loop that skips the other frames is not worthwhile
    return y[:, :, ::stride]


class DepthwiseConv(torch.autograd.Function):
    """Forward and both gradients, of stride one."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        valid: Tensor | None,
        dilation: int,
        padding: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(x, weight, valid)
        ctx.dilation, ctx.left = dilation, padding[0]
        frames_out = x.shape[2] + sum(padding) - dilation * (weight.shape[2] - 1)
        return _convolve(x, valid, weight, None, dilation, ctx.left, frames_out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, valid = ctx.saved_tensors
        dx = dw = None
        if ctx.needs_input_grad[0]:
            # the gradient of the input is a convolution with the flipped kernel
            left = ctx.dilation * (weight.shape[2] - 1) - ctx.left
            dx = _convolve(dy, None, weight.flip(2), valid, ctx.dilation, left, x.shape[2])
        if ctx.needs_input_grad[1]:
            dw = _weight_gradient(x, valid, dy, weight, ctx.dilation, ctx.left)
        return dx, dw, None, None, None


def _convolve(
    x: Tensor,
    valid_in: Tensor | None,
    weight: Tensor,
    valid_out: Tensor | None,
    dilation: int,
    left: int,
    frames_out: int,
) -> Tensor:
    """Output o reads from frame o − left on, zeros beyond the ends."""
    fill, correlate, unpack = map(_compiled, (_fill, _correlate, _unpack))
    batch, channels, frames = x.shape
    given, (taps,) = _rows(x, x.dtype), _rows(weight.transpose(0, 1), x.dtype)
    marks_in, marks_out = _marks(valid_in, batch, frames), _marks(valid_out, batch, frames_out)
    y = x.new_empty(batch, frames_out, channels, dtype=sum_type(x.dtype))
    made = y.numpy()

    a = _panels(channels, len(taps), y.dtype)
    fill(taps, np.ones(len(taps), bool), 0, 1, a)
    for phase, count in enumerate(_phases(frames_out, dilation)):
        sums = _panels(channels, _tiled(count), y.dtype)
        b = _panels(channels, sums.shape[1] + len(taps) - 1, y.dtype)
        for n in range(batch):
            fill(given[n], marks_in[n], phase - left, dilation, b)
            sums.fill(0)
            correlate(a, b, sums)
            unpack(sums, marks_out[n], phase, dilation, made[n])
    return y.to(x.dtype).transpose(1, 2)


def _weight_gradient(
    x: Tensor, valid: Tensor | None, dy: Tensor, weight: Tensor, dilation: int, left: int
) -> Tensor:
    fill, correlate, unpack = map(_compiled, (_fill, _correlate, _unpack))
    batch, channels, frames_out = dy.shape
    taps = weight.shape[2]
    given, given_dy = _rows(x, x.dtype), _rows(dy, x.dtype)
    marks, marks_out = _marks(valid, batch, x.shape[2]), _marks(None, batch, frames_out)
    dw = x.new_empty(taps, channels, dtype=sum_type(x.dtype))

    sums = _panels(channels, _tiled(taps), dw.dtype)
    sums.fill(0)
    for phase, count in enumerate(_phases(frames_out, dilation)):
        a = _panels(channels, count, dw.dtype)
        b = _panels(channels, count + sums.shape[1] - 1, dw.dtype)
        for n in range(batch):
            fill(given_dy[n], marks_out[n], phase, dilation, a)
            fill(given[n], marks[n], phase - left, dilation, b)
            correlate(a, b, sums)
    unpack(sums, np.ones(taps, bool), 0, 1, dw.numpy())
    return dw.to(weight.dtype).T.unsqueeze(1).contiguous()


@functools.cache
def _compiled(function: Any) -> Any:
    """The compiled function, cached next to this file or in the user's cache."""
    from numba import njit

    options: dict[str, Any] = {"nogil": True, "fastmath": {"contract"}}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:
        # no writable folder
        return njit(**options)(function)


def _fill(x: Array, valid: Array, first: int, step: int, panels: Array) -> None:
    """Row r of the panels is frame first + r · step of x, or zero."""
    frames, channels = x.shape
    for r in range(panels.shape[1]):
        frame = first + r * step
        real = 0 <= frame < frames and valid[frame]
        for p in range(len(panels)):
            c = p * LANES
            width = min(LANES, channels - c) if real else 0
            given, row = x[frame, c : c + width], panels[p, r]
            for lane in range(width):
                row[lane] = given[lane]
            row[width:] = 0


def _unpack(panels: Array, valid: Array, first: int, step: int, y: Array) -> None:
    """The inverse of `_fill`: rows of the panels become frames of y, zero if not valid."""
    for r, frame in enumerate(range(first, len(y), step)):
        for p in range(len(panels)):
            c = p * LANES
            made, row = y[frame, c : c + LANES], panels[p, r]
            for lane in range(len(made)):
                made[lane] = row[lane] if valid[frame] else 0


def _correlate(a: Array, b: Array, sums: Array) -> None:
    """sums[n] += Σ_i a[i] b[n + i] in each lane, n up to a multiple of TILE."""
    terms = a.shape[1]
    for p in range(len(a)):
        # flat, with rows LANES apart, a distance known at compile time
        a_p, b_p, sums_p = a[p].reshape(-1), b[p].reshape(-1), sums[p].reshape(-1)
        for n in range(0, sums.shape[1], TILE):
            s = sums_p[n * LANES :]
            for i in range(0, terms - TILE + 1, TILE):
                w, x = a_p[i * LANES :], b_p[(n + i) * LANES :]
                for c in range(LANES):
                    w0, w1, w2, w3 = w[c], w[c + LANES], w[c + 2 * LANES], w[c + 3 * LANES]
                    x1, x2, x3 = x[c + LANES], x[c + 2 * LANES], x[c + 3 * LANES]
                    x4, x5, x6 = x[c + 4 * LANES], x[c + 5 * LANES], x[c + 6 * LANES]
                    s[c] += w0 * x[c] + w1 * x1 + w2 * x2 + w3 * x3
                    s[c + LANES] += w0 * x1 + w1 * x2 + w2 * x3 + w3 * x4
                    s[c + 2 * LANES] += w0 * x2 + w1 * x3 + w2 * x4 + w3 * x5
                    s[c + 3 * LANES] += w0 * x3 + w1 * x4 + w2 * x5 + w3 * x6
            for i in range(terms - terms % TILE, terms):
                w, x = a_p[i * LANES :], b_p[(n + i) * LANES :]
                for c in range(LANES):
                    s[c] += w[c] * x[c]
                    s[c + LANES] += w[c] * x[c + LANES]
                    s[c + 2 * LANES] += w[c] * x[c + 2 * LANES]
                    s[c + 3 * LANES] += w[c] * x[c + 3 * LANES]


def _rows(x: Tensor, dtype: torch.dtype) -> Array:
    rows = x.detach().transpose(1, 2).to(sum_type(dtype)).contiguous()
    return rows.numpy()


def _marks(valid: Tensor | None, batch: int, frames: int) -> Array:
    return np.ones((batch, frames), bool) if valid is None else valid.contiguous().numpy()


def _phases(frames: int, dilation: int) -> list[int]:
    """The number of frames at each phase of the dilation."""
    return [len(range(phase, frames, dilation)) for phase in range(min(dilation, frames))]


def _panels(channels: int, rows: int, dtype: torch.dtype) -> Array:
    # torch's memory is aligned to cache lines, unlike numpy's, where each load may touch two
    return torch.empty(math.ceil(channels / LANES), rows, LANES, dtype=dtype).numpy()


def _tiled(count: int) -> int:
    return math.ceil(count / TILE) * TILE
