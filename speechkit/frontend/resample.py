"""Resamples audio to another rate; whole recordings and streams give equal results."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from speechkit.errors import AudioError
from speechkit.frontend.base import Table
from speechkit.nn.stream import Windowed
from speechkit.plans.resample import phases

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value


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
        filters, stride, rate, reach = phases(rate_in, rate_out)
        super().__init__(reach, filters.shape[1] - 1 - reach, stride, rate)
        self.filters = Table(torch.from_numpy(filters))
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
