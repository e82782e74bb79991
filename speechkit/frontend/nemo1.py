"""The frames that NeMo 1.0 to 2.4 counted, for checkpoints trained on them.

Its spectra reflect the batch tensor at both ends, so the last frames of a row depend on what the
row was batched with, and there is no end to reflect at while a stream runs.
"""

from typing import Literal

import torch
import torch.nn.functional as F

from speechkit.errors import AudioError
from speechkit.frontend.base import Offline
from speechkit.frontend.stft import PowerSpectrum
from speechkit.nn.stream import Chunk, StreamLayer


class Mask(StreamLayer):
    """Zeros where the input is not valid. Shape: `[B, C, T]` → the same."""

    def forward(self, c: Chunk) -> Chunk:
        return Chunk(c.masked, c.valid)


class NemoPowerSpectrum(Offline, PowerSpectrum):
    """PowerSpectrum with reflected edges and one frame more: N // hop + 1.

    A row of n samples has n // hop + 1 valid frames with count "floor" (log-mel), ceil(n / hop)
    with count "ceil" (MFCC). Its input is not masked again: NeMo 1 keeps the sample that
    pre-emphasis makes just after the end. Shape: x `[B, 1, N]`, y `[B, F, N // hop + 1]`.
    """

    instead = "compat=None, whose frames do not depend on the batch"

    def __init__(
        self,
        n_fft: int,
        window_samples: int,
        hop_samples: int,
        periodic: bool = False,
        count: Literal["floor", "ceil"] = "floor",
    ) -> None:
        super().__init__(n_fft, window_samples, hop_samples, periodic)
        self.count = count

    def forward(self, c: Chunk) -> Chunk:
        samples, hop = c.x.shape[2], self.stride
        pad = self.left, self.right + 1
        if samples <= max(pad):
            raise AudioError(
                f"compat='nemo1' reflects {max(pad)} samples and was given {samples}; "
                f"give at least {max(pad) + 1}, or use compat=None"
            )
        frames = samples // hop + 1
        n = c.lengths[:, None]
        valid_frames = n // hop + 1 if self.count == "floor" else (n + hop - 1) // hop
        valid = torch.arange(frames, device=c.x.device) < valid_frames
        return Chunk(self.compute(F.pad(c.x, pad, mode="reflect"), frames), valid)


class PadTo(Offline):
    """Invalid frames up to the next multiple of `frames`; every invalid frame becomes zero.

    Shape: x `[B, C, T]`, y `[B, C, ceil(T / frames) · frames]`.
    """

    instead = "pad_to=0"

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.frames = frames

    def forward(self, c: Chunk) -> Chunk:
        missing = -c.x.shape[2] % self.frames
        valid = F.pad(c.valid, (0, missing))
        x = F.pad(c.x.transpose(1, 2), (0, 0, 0, missing)).masked_fill(~valid[:, :, None], 0)
        return Chunk(x.transpose(1, 2), valid)

    def extra_repr(self) -> str:
        return f"frames={self.frames}"
