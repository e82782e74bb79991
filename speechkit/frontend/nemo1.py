"""NeMo's rules for frames, for checkpoints trained with them.

The spectra of NeMo 1.0 to 2.4 reflect the batch tensor at both ends. So the last frames of a row
depend on the other rows of the batch, and a stream cannot have them, since its end is not known.
The classifiers of all versions also read the frames after the end.
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
        x, known = F.pad(c.x, pad, mode="reflect"), F.pad(c.valid, pad)
        return Chunk(self.compute(x, frames, known), valid)


class PadTo(Offline):
    """`extra` invalid frames and more up to a multiple of `frames`; invalid frames become zero.

    Shape: x `[B, C, T]`, y `[B, C, ceil((T + extra) / frames) · frames]`.
    """

    instead = "pad_to=0 and extra_frames=0"

    def __init__(self, frames: int, extra: int = 0) -> None:
        super().__init__()
        self.frames, self.extra = frames, extra

    def forward(self, c: Chunk) -> Chunk:
        missing = self.extra + -(c.x.shape[2] + self.extra) % self.frames
        valid = F.pad(c.valid, (0, missing))
        x = F.pad(c.x.transpose(1, 2), (0, 0, 0, missing)).masked_fill(~valid[:, :, None], 0)
        return Chunk(x.transpose(1, 2), valid)

    def extra_repr(self) -> str:
        return f"frames={self.frames}, extra={self.extra}"


class CropOrPad(Offline):
    """The middle `frames` frames, or zeros around fewer, the odd one at the end; all valid.

    NeMo cuts a longer input at random, in evaluation too; the middle is the same every time.
    Shape: x `[B, C, T]`, y `[B, C, frames]`. Source: NeMo `CropOrPadSpectrogramAugmentation`.
    """

    instead = "clip_frames=0"

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.frames = frames

    def forward(self, c: Chunk) -> Chunk:
        missing = self.frames - c.x.shape[2]
        before = missing // 2 if missing > 0 else -(-missing // 2)
        x = F.pad(c.x.transpose(1, 2), (0, 0, before, missing - before))
        return Chunk(x.transpose(1, 2), torch.ones_like(x[:, :, 0], dtype=torch.bool))

    def extra_repr(self) -> str:
        return f"frames={self.frames}"


class Unmasked(Offline):
    """Every frame valid, padding too, as a net without `conv_mask` reads them. `[B, C, T]`."""

    instead = "unmasked=false"

    def forward(self, c: Chunk) -> Chunk:
        return Chunk(c.x, torch.ones_like(c.valid))
