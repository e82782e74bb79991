"""From samples to a power spectrum."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from speechkit.errors import ComponentError
from speechkit.frontend.base import Table
from speechkit.nn.stream import Windowed

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value


class PreEmphasis(Windowed):
    """y[n] = x[n] − coefficient · x[n − 1], with y[0] = x[0].

    Shape: `[B, C, N]` → the same.
    """

    def __init__(self, coefficient: float = 0.97) -> None:
        super().__init__(left=1, right=0, stride=1)
        self.coefficient = coefficient

    def compute(self, x: Tensor, frames: int, valid: Tensor) -> Tensor:
        return x[:, :, 1 : frames + 1] - self.coefficient * x[:, :, :frames]

    def lower(self, program: Lowering, x: Value) -> Value:
        return program.emit(
            "preemphasis", x, keep=self.keep, numbers=[float(self.coefficient)], left=self.left
        )

    def extra_repr(self) -> str:
        return f"coefficient={self.coefficient}"


class PowerSpectrum(Windowed):
    """|DFT|² of a Hann window that slides by `hop_samples`, over zeros outside the utterance.

    Frame o is centred on sample o·hop and valid where sample o·hop + hop − 1 is, so a row of n
    samples has n // hop valid frames in any batch. The window reaches `left` samples back and
    `right` ahead; delay = right // hop. It is shorter than the n_fft samples of the DFT, and the
    zeros around it add no delay.
    Shape: x `[B, 1, N]`, y `[B, n_fft // 2 + 1, N // hop]`.
    """

    def __init__(
        self, n_fft: int, window_samples: int, hop_samples: int, periodic: bool = False
    ) -> None:
        if not 1 < window_samples <= n_fft or hop_samples < 1:
            raise ComponentError(
                f"window of {window_samples} samples, n_fft {n_fft}, hop {hop_samples}: "
                "give 1 < window <= n_fft and a hop of at least 1"
            )
        # where the window starts when it is centred in n_fft samples around o·hop
        left = n_fft // 2 - (n_fft - window_samples) // 2
        super().__init__(left, window_samples - 1 - left, hop_samples)
        hann = torch.hann_window(window_samples, periodic=periodic, dtype=torch.float64)
        self.window = Table(hann)
        self.n_fft, self.window_samples, self.hop_samples = n_fft, window_samples, hop_samples

    def channels_out(self, c_in: int) -> int:
        return self.n_fft // 2 + 1

    def own(self, valid: Tensor) -> Tensor:
        return valid[:, self.stride - 1 :: self.stride]

    def frames_out(self, frames: int) -> int:
        return frames // self.stride

    def compute(self, x: Tensor, frames: int, valid: Tensor) -> Tensor:
        # torch has no Fourier transform of zero samples; len(x) would fix an export's batch size
        if not frames or not x.shape[0]:
            return x.new_empty(x.shape[0], frames, self.channels_out(1)).transpose(1, 2)
        windows = x[:, 0].unfold(1, self.window_samples, self.stride)[:, :frames]
        before = self.n_fft // 2 - self.left
        after = self.n_fft - before - self.window_samples
        spectrum = torch.fft.rfft(F.pad(windows * self.window(x), (before, after)))
        power: Tensor = (spectrum.real.square() + spectrum.imag.square()).transpose(1, 2)
        return power

    def lower(self, program: Lowering, x: Value) -> Value:
        size = self.n_fft
        if size & (size - 1) or size < 8:
            program.refuse(f"no native spectrum of {size} samples")
        return program.emit(
            "spectrum",
            x,
            rows=x.rows // self.stride,
            channels=size // 2 + 1,
            keep=self.keep,
            weights=self.window.value.float(),
            filters=_transform_tables(size),
            taps=self.window_samples,
            stride=self.stride,
            size=size,
            left=self.left,
            rate=size // 2 - self.left,
        )

    def extra_repr(self) -> str:
        return f"n_fft={self.n_fft}, window={self.window_samples}, hop={self.hop_samples}"


def _transform_tables(size: int) -> Tensor:
    """cos and −sin of 2π k / size, and the twiddles of each pass by fours of half the size."""

    def rotations(angles: Tensor) -> Tensor:
        return torch.stack([angles.cos(), -angles.sin()]).float()

    half = size // 2
    passes = []
    while half >= 4:
        quarters = torch.arange(half // 4, dtype=torch.float64)
        angles = quarters[:, None] * torch.arange(1, 4) * (2 * math.pi / half)
        passes.append(rotations(angles).permute(1, 2, 0).flatten())
        half //= 4
    whole = torch.arange(size // 2, dtype=torch.float64) * (2 * math.pi / size)
    return torch.cat([rotations(whole).flatten(), *passes])
