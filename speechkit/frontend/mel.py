"""Log-mel energies and cepstra: the input features of the networks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from speechkit.component import Spec
from speechkit.errors import ComponentError
from speechkit.frontend.base import Project, Table
from speechkit.frontend.nemo1 import CropOrPad, Mask, NemoPowerSpectrum, PadTo, Unmasked
from speechkit.frontend.stft import PowerSpectrum, PreEmphasis
from speechkit.limits import MAX_FEATURES, MAX_WIDTH
from speechkit.nn.stream import FrameWise, Serial, StreamLayer
from speechkit.plugins import registry
from speechkit.units import Seconds, to_samples

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value

Compat = Literal["nemo1"] | None
Tables = Literal["computed", "stored"]
"""The source of window, filterbank and cosines: their formulas, or the weights."""


class Log(nn.Module):
    """y = ln(x + guard)."""

    def __init__(self, guard: float) -> None:
        super().__init__()
        self.guard = guard

    def forward(self, x: Tensor) -> Tensor:
        return torch.log(x + self.guard)

    def lower(self, program: Lowering, x: Value) -> Value:
        """The same as one instruction of a native program."""
        return program.emit("log", x, numbers=[self.guard])

    def extra_repr(self) -> str:
        return f"guard={self.guard}"


class LogMel(Serial):
    """ln(mel energy + 2⁻²⁴) of pre-emphasised speech on the Slaney scale, then normalised.

    Shape: x `[B, 1, N]` audio in [−1, 1], y `[B, n_mels, N // hop]`. `window_s` and `hop_s` are
    seconds. `normalize` is a component of the kind normalizer, such as `per_feature` (over the
    utterance, does not stream) or `running`. compat="nemo1" gives the frames of
    NeMo 1.0 to 2.4 and does not stream; `pad_to` frames is 16 with it, else 0, unless given.
    `extra_frames` invalid ones follow the end (1 in NeMo from 2.5 on), `clip_frames` crops or pads
    to so many frames, `unmasked` makes padding valid; none of the three streams.
    Source: NeMo `FilterbankFeatures`.
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        n_mels: int = 64,
        window_s: float = 0.02,
        hop_s: float = 0.01,
        n_fft: int = 512,
        preemphasis: float = 0.97,
        normalize: str | Spec = "per_feature",
        compat: Compat = None,
        pad_to: int | None = None,
        extra_frames: int = 0,
        clip_frames: int = 0,
        unmasked: bool = False,
        tables: Tables = "computed",
    ) -> None:
        check_compat(compat)
        check_sizes(n_mels, n_fft)
        window = to_samples(Seconds(window_s), sample_rate)
        hop = to_samples(Seconds(hop_s), sample_rate)
        spectrum = NemoPowerSpectrum if compat else PowerSpectrum
        if pad_to is None:
            pad_to = 16 if compat else 0
        super().__init__(
            PreEmphasis(preemphasis),
            spectrum(n_fft, window, hop),
            Project(slaney_bank(sample_rate, n_fft, n_mels)),
            FrameWise(Log(2**-24)),
            registry().build("normalizer", normalize, n_mels),
            *([PadTo(max(pad_to, 1), extra_frames)] if pad_to or extra_frames else []),
            *clip_layers(clip_frames, unmasked),
        )
        choose_tables(self, tables)
        self.sample_rate, self.hop_samples, self.features = sample_rate, hop, n_mels


class MFCC(Serial):
    """Cosine transform of ln(mel energy + 1e-6) on the HTK scale, not normalised.

    Shape: x `[B, 1, N]` audio in [−1, 1], y `[B, n_mfcc, N // hop]`. `window_s` and `hop_s` are
    seconds. compat="nemo1" gives NeMo's frames and does not stream; `clip_frames` and `unmasked`
    are those of `LogMel`.
    Source: torchaudio `MFCC(log_mels=True)`.
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        n_mfcc: int = 64,
        n_mels: int = 64,
        window_s: float = 0.025,
        hop_s: float = 0.01,
        n_fft: int = 512,
        compat: Compat = None,
        clip_frames: int = 0,
        unmasked: bool = False,
        tables: Tables = "computed",
    ) -> None:
        check_compat(compat)
        check_sizes(n_mels, n_fft)
        if not 0 < n_mfcc <= n_mels:
            raise ComponentError(f"n_mfcc {n_mfcc} of n_mels {n_mels}; give 1 to {n_mels}")
        window = to_samples(Seconds(window_s), sample_rate)
        hop = to_samples(Seconds(hop_s), sample_rate)
        spectrum: list[StreamLayer] = (
            [Mask(), NemoPowerSpectrum(n_fft, window, hop, periodic=True, count="ceil")]
            if compat
            else [PowerSpectrum(n_fft, window, hop, periodic=True)]
        )
        super().__init__(
            *spectrum,
            Project(htk_bank(sample_rate, n_fft, n_mels)),
            FrameWise(Log(1e-6)),
            Project(cosines(n_mfcc, n_mels)),
            *clip_layers(clip_frames, unmasked),
        )
        choose_tables(self, tables)
        self.sample_rate, self.hop_samples, self.features = sample_rate, hop, n_mfcc


class StoredTable(Table):
    """A table that is stored with the weights; `load_state_dict` replaces its values."""

    def __init__(self, exact: Tensor) -> None:
        super().__init__(exact)
        self.register_buffer("value", self.value, persistent=True)

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self._exact = self.value.double()


def choose_tables(frontend: Serial, tables: str) -> None:
    """Makes the tables of a front end part of the model's weights if `tables` is "stored"."""
    if tables not in ("computed", "stored"):
        raise ComponentError(f"tables {tables!r} is not known; use 'computed' or 'stored'")
    if tables == "stored":
        for layer in frontend:
            for name, table in list(layer.named_children()):
                if isinstance(table, Table):
                    setattr(layer, name, StoredTable(table.value.double()))


def clip_layers(clip_frames: int, unmasked: bool) -> list[StreamLayer]:
    """The layers with which NeMo's classifiers, and nets without masks, change the last frames."""
    crop: list[StreamLayer] = [CropOrPad(clip_frames)] if clip_frames else []
    return [*crop, *([Unmasked()] if unmasked else [])]


def check_compat(compat: str | None) -> None:
    """Raises ComponentError where `compat` is neither None nor "nemo1"."""
    if compat not in (None, "nemo1"):
        raise ComponentError(f"compat {compat!r} is not known; use None or 'nemo1'")


def check_sizes(n_mels: int, n_fft: int) -> None:
    """Raises ComponentError for tables that would be empty or too large."""
    if not (1 <= n_mels <= MAX_FEATURES and 2 <= n_fft <= MAX_WIDTH):
        raise ComponentError(
            f"n_mels {n_mels}, n_fft {n_fft}; give 1 to {MAX_FEATURES} and 2 to {MAX_WIDTH}"
        )


def slaney_bank(sample_rate: int, n_fft: int, n_mels: int) -> Tensor:
    """Triangles of area 1 on the Slaney scale, 0 to sample_rate / 2 hertz.

    mel(f) = 3f / 200 below 1 kHz, 15 + 27 ln(f / 1000) / ln 6.4 above. Shape: `[n_mels, F]`
    float64. Source: librosa `filters.mel(norm="slaney")`.
    """
    top_hz = sample_rate / 2
    step = math.log(6.4) / 27
    top = 15 + math.log(top_hz / 1000) / step if top_hz > 1000 else 3 * top_hz / 200
    mel = torch.linspace(0, top, n_mels + 2, dtype=torch.float64)
    hz = torch.where(mel < 15, mel * 200 / 3, 1000 * torch.exp((mel - 15) * step))
    return triangles(hz, sample_rate, n_fft) * (2 / (hz[2:] - hz[:-2]))[:, None]


def htk_bank(sample_rate: int, n_fft: int, n_mels: int) -> Tensor:
    """Triangles of height 1 on the HTK scale, 0 to sample_rate / 2 hertz.

    mel(f) = 2595 log₁₀(1 + f / 700). Shape: `[n_mels, F]` float64.
    """
    top = 2595 * math.log10(1 + sample_rate / 2 / 700)
    mel = torch.linspace(0, top, n_mels + 2, dtype=torch.float64)
    return triangles(700 * (10 ** (mel / 2595) - 1), sample_rate, n_fft)


def triangles(hz: Tensor, sample_rate: int, n_fft: int) -> Tensor:
    """Triangle m rises from hz[m] to 1 at hz[m + 1] and falls to hz[m + 2], at each DFT bin.

    Shape: hz `[M + 2]`, returns `[M, n_fft // 2 + 1]`.
    """
    bins = torch.arange(n_fft // 2 + 1, dtype=torch.float64) * sample_rate / n_fft
    start, peak, end = hz[:-2, None], hz[1:-1, None], hz[2:, None]
    rise, fall = (bins - start) / (peak - start), (end - bins) / (end - peak)
    return torch.minimum(rise, fall).clamp(min=0)


def cosines(n_out: int, n_in: int) -> Tensor:
    """The orthonormal DCT-II: D[k, n] = √(2 / n_in) cos(π k (n + ½) / n_in), D[0] / √2.

    Shape: `[n_out, n_in]` float64.
    """
    k = torch.arange(n_out, dtype=torch.float64)[:, None]
    n = torch.arange(n_in, dtype=torch.float64)
    table = math.sqrt(2 / n_in) * torch.cos(math.pi * k * (n + 0.5) / n_in)
    table[0] /= math.sqrt(2)
    return table
