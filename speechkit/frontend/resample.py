"""Resamples audio to another rate; whole recordings and streams give equal results."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from speechkit.errors import AudioError
from speechkit.frontend.base import Table
from speechkit.nn.stream import Windowed

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value

ZEROS = 64
"""Zero crossings of the filter on each side, at the lower of the two rates."""
STOP_DB = 90
"""Attenuation from the lower Nyquist frequency on."""
# Kaiser's design formulas: the shape, and the width of the transition as a part of Nyquist
BETA = 0.1102 * (STOP_DB - 8.7)
TRANSITION = (STOP_DB - 8) / (2.285 * 2 * ZEROS * math.pi)


class Resample(Windowed):
    """Windowed-sinc interpolation from `rate_in` to `rate_out` hertz.

        y[m] = Σ_n x[n] h(m · rate_in / rate_out − n)
        h(τ) = c r sinc(c r τ) I₀(β √(1 − (r τ / 64)²)) / I₀(β),  r = min(1, rate_out / rate_in)

    flat to 0.91 of the lower Nyquist frequency and 90 dB down from Nyquist on. With both rates
    divided by their greatest common divisor, `stride` = rate_in samples make `rate` = rate_out,
    computed as that many phases of one strided convolution. An output sample is valid where the
    input at or just before its time is. Shape: x `[B, 1, N]`,
    y `[B, 1, ceil(N · rate_out / rate_in)]`.
    Source: J. F. Kaiser, "Nonrecursive digital filter design using the I0-sinh window function".
    """

    def __init__(self, rate_in: int, rate_out: int) -> None:
        if min(rate_in, rate_out) < 1 or rate_in == rate_out:
            raise AudioError(
                f"cannot resample {rate_in} to {rate_out} Hz; give two different positive rates"
            )
        common = math.gcd(rate_in, rate_out)
        stride, rate = rate_in // common, rate_out // common
        reach = math.ceil(ZEROS * max(1, stride / rate))
        table = phases(stride, rate, reach)
        super().__init__(reach, table.shape[1] - 1 - reach, stride, rate)
        self.filters = Table(table)
        self.rate_in, self.rate_out = rate_in, rate_out

    def own(self, valid: Tensor) -> Tensor:
        frames = valid.shape[1] // self.stride * self.rate
        return valid[:, torch.arange(frames, device=valid.device) * self.stride // self.rate]

    def compute(self, x: Tensor, frames: int, valid: Tensor) -> Tensor:
        if not frames:
            return x[:, :, :0]
        y = F.conv1d(x, self.filters(x)[:, None], stride=self.stride)
        return y.transpose(1, 2).reshape(x.shape[0], -1, 1)[:, :frames].transpose(1, 2)

    def lower(self, program: Lowering, x: Value) -> Value:
        filters = self.filters.value.float()
        return program.emit(
            "resample",
            x,
            rows=x.rows // self.stride * self.rate,
            keep=self.keep,
            filters=filters,
            taps=filters.shape[1],
            stride=self.stride,
            left=self.left,
            rate=self.rate,
        )

    def extra_repr(self) -> str:
        return f"{self.rate_in} → {self.rate_out} Hz"


def phases(stride: int, rate: int, reach: int) -> Tensor:
    """One filter per output sample of a block, over the input from `reach` before the block on.

    Shape: `[rate, 2 · reach + 1 + (rate − 1) · stride // rate]` float64, each row's sum 1.
    """
    last = (rate - 1) * stride // rate
    at = torch.arange(rate, dtype=torch.float64)[:, None] * stride / rate
    tau = at - torch.arange(-reach, last + reach + 1, dtype=torch.float64)
    low = min(1.0, rate / stride)
    inside = 1 - (low * tau / ZEROS).square()
    window = torch.special.i0(BETA * inside.clamp(min=0).sqrt()) * (inside >= 0)
    h: Tensor = torch.sinc((1 - TRANSITION / 2) * low * tau) * window
    h /= h.sum(1, keepdim=True)
    return h
