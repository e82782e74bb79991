"""From samples to a power spectrum."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from speechkit.errors import ComponentError
from speechkit.frontend.base import TableLayer
from speechkit.nn.stream import Chunk, State, StreamLayer, cat_time, empty_past, zeros


class PreEmphasis(StreamLayer):
    """y[n] = x[n] − coefficient · x[n − 1], with y[0] = x[0].

    Shape: `[B, C, N]` → the same.
    """

    left = 1

    def __init__(self, coefficient: float = 0.97) -> None:
        super().__init__()
        self.coefficient = coefficient

    def forward(self, c: Chunk) -> Chunk:
        batch, channels, _ = c.x.shape
        return self.step(c, self.init_state(batch, channels, c.x.dtype, c.x.device))[0]

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        return zeros(batch, c_in, 1, dtype, device)

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        x = cat_time([state, c.masked])
        return Chunk(x[:, :, 1:] - self.coefficient * x[:, :, :-1], c.valid), x[:, :, -1:]

    def extra_repr(self) -> str:
        return f"coefficient={self.coefficient}"


class PowerSpectrum(TableLayer):
    """|DFT|² of a Hann window that slides by `hop_samples`, over zeros outside the utterance.

    Frame o is centred on sample o·hop and valid where sample o·hop + hop − 1 is, so a row of n
    samples has n // hop valid frames whatever it is batched with. The window reaches `left`
    samples back and `right` ahead; delay = right // hop. It is shorter than the n_fft samples of
    the DFT, and the zeros around it are not waited for.
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
        super().__init__(torch.hann_window(window_samples, periodic=periodic, dtype=torch.float64))
        self.n_fft, self.window_samples, self.hop_samples = n_fft, window_samples, hop_samples
        # where the window starts when it is centred in n_fft samples around o·hop
        self.left: int = n_fft // 2 - (n_fft - window_samples) // 2
        self.right: int = window_samples - 1 - self.left
        self.stride = hop_samples
        self.delay = self.right // hop_samples
        self.keep = hop_samples * self.delay + self.left

    def channels_out(self, c_in: int) -> int:
        return self.n_fft // 2 + 1

    def forward(self, c: Chunk) -> Chunk:
        frames = c.x.shape[2] // self.stride
        x = F.pad(c.masked, (self.left, self.right))
        return Chunk(self.power(x, frames), c.valid[:, self.stride - 1 :: self.stride])

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        return empty_past(batch, c_in, self.keep, dtype, device)

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        self.check_chunk(c)
        samples = c.x.shape[2]
        x, valid = cat_time([state[0], c.masked]), torch.cat([state[1], c.valid], dim=1)
        y = self.power(x, samples // self.stride)
        own = valid[:, self.left + self.stride - 1 : self.left + samples : self.stride]
        return Chunk(y, own), (x[:, :, samples:], valid[:, samples:])

    def power(self, x: Tensor, frames: int) -> Tensor:
        """The spectra `[B, F, frames]` of the first `frames` windows of `x [B, 1, N]`."""
        if not frames:
            return x.new_empty(x.shape[0], 0, self.channels_out(1)).transpose(1, 2)
        windows = x[:, 0].unfold(1, self.window_samples, self.stride)[:, :frames]
        before = self.n_fft // 2 - self.left
        after = self.n_fft - before - self.window_samples
        spectrum = torch.fft.rfft(F.pad(windows * self.table.to(x.dtype), (before, after)))
        return (spectrum.real.square() + spectrum.imag.square()).transpose(1, 2)

    def extra_repr(self) -> str:
        return f"n_fft={self.n_fft}, window={self.window_samples}, hop={self.hop_samples}"
