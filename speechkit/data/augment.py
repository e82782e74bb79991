"""Augmentations: random changes to utterances in training, drawn from an explicit generator.

An augmentation is any callable `f(x, length, generator) -> (x, length)` with a `domain`. In the
domain "audio" x is `[1, N]`, in "features" it is `[F, T]`; values after `length` are padding.
The input is never changed in place. In the domain "utterances" it is a `Joining`.
"""

import speechkit.torch_required

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal, Protocol, get_args

import numpy as np
import soxr
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from speechkit.data.audio import audio_duration_s
from speechkit.data.files import find_audio
from speechkit.data.manifest import Utterance, read_manifest
from speechkit.data.tensors import read_audio
from speechkit.errors import ComponentError

Domain = Literal["audio", "features", "utterances"]
DOMAINS: tuple[Domain, ...] = get_args(Domain)


class Augmentation(Protocol):
    """The interface of augmentations of audio and of features."""

    domain: ClassVar[Domain]

    def __call__(self, x: Tensor, length: int, generator: Generator) -> tuple[Tensor, int]: ...


class Joining(Protocol):
    """The interface of augmentations that put utterances one after another."""

    domain: ClassVar[Domain] = "utterances"

    def __call__(
        self, index: int, utterances: Sequence[Utterance], generator: Generator
    ) -> list[int]:
        """The indices of the utterances that are read, in order, in place of utterance `index`."""
        ...


def utterance_generator(
    seed: int, epoch: int, index: int, domain: Domain = "audio", view: int = 0
) -> torch.Generator:
    """The generator for one utterance in one epoch, the same in every process and on resuming.

    `view` is the number of earlier rows with the same utterance in the batch.
    """
    return seeded_generator(f"{seed}/{epoch}/{index}/{domain}{view or ''}")


def seeded_generator(key: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator whose seed is a hash of `key`."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little"))


def apply(
    augmentations: Iterable[Augmentation], x: Tensor, length: int, generator: Generator
) -> tuple[Tensor, int]:
    """Applies the augmentations in order."""
    for augmentation in augmentations:
        x, length = augmentation(x, length, generator)
    return x, length


class AudioAugmentation:
    """Base class for changes to audio, applied with `probability` to the first `length` samples."""

    domain: ClassVar[Domain] = "audio"
    probability: float

    def __call__(self, x: Tensor, length: int, generator: Generator) -> tuple[Tensor, int]:
        if not _happens(self.probability, generator):
            return x, length
        y = self.change(x[:, :length], generator)
        return y, y.shape[1]

    def change(self, x: Tensor, generator: Generator) -> Tensor:
        """The changed audio. Shape: `[1, N]` → `[1, N']`."""
        raise AssertionError("a subclass defines this")


class FeatureMasking:
    """Base class for masks over features, applied with `probability`: masked values become 0."""

    domain: ClassVar[Domain] = "features"
    probability: float

    def __call__(self, x: Tensor, length: int, generator: Generator) -> tuple[Tensor, int]:
        if not _happens(self.probability, generator):
            return x, length
        mask = torch.zeros(x.shape, dtype=torch.bool)
        self.mask(mask[:, :length], generator)
        return x.masked_fill(mask.to(x.device), 0), length

    def mask(self, out: Tensor, generator: Generator) -> None:
        """Sets the masked values of `out [F, T]` to 0."""
        raise AssertionError("a subclass defines this")


@dataclass(frozen=True)
class Gain(AudioAugmentation):
    """A random gain. If `step_db` is not 0, it changes once, at a random time.

    y = x · 10^(g/20), g ~ U(min_db, max_db), and later x · 10^((g + s)/20), s ~ U(±step_db)
    """

    min_db: float = -10.0
    max_db: float = 10.0
    probability: float = 1.0
    step_db: float = 0.0

    def __post_init__(self) -> None:
        _check_range("db", self.min_db, self.max_db)
        _check_range("step_db", 0, self.step_db)

    def change(self, x: Tensor, generator: Generator) -> Tensor:
        y = x * 10 ** (_uniform(self.min_db, self.max_db, generator) / 20)
        if self.step_db:
            at = _integer(0, x.shape[1], generator)
            y[:, at:] *= 10 ** (_uniform(-self.step_db, self.step_db, generator) / 20)
        return y


@dataclass(frozen=True)
class WhiteNoise(AudioAugmentation):
    """White noise at a random level below full scale.

    y = x + 10^(g/20) · n, n ~ N(0, 1), g ~ U(min_db, max_db). Paper: arXiv:2004.08531.
    """

    min_db: float = -90.0
    max_db: float = -46.0
    probability: float = 1.0

    def __post_init__(self) -> None:
        _check_range("db", self.min_db, self.max_db)

    def change(self, x: Tensor, generator: Generator) -> Tensor:
        level = 10 ** (_uniform(self.min_db, self.max_db, generator) / 20)
        return x + level * torch.randn(x.shape, generator=generator, dtype=x.dtype)


@dataclass(frozen=True)
class TimeShift(AudioAugmentation):
    """Shifts the audio in time and fills with zeros; the length does not change.

    y[n] = x[n + s], s ~ U(−max_ms, max_ms) in milliseconds. Paper: arXiv:2004.08531.
    """

    max_ms: float = 5.0
    probability: float = 1.0
    sample_rate: int = 16000

    def __post_init__(self) -> None:
        _check_range("max_ms", 0, self.max_ms)

    def change(self, x: Tensor, generator: Generator) -> Tensor:
        shift = int(_uniform(-self.max_ms, self.max_ms, generator) * self.sample_rate / 1000)
        shift = max(-x.shape[1], min(shift, x.shape[1]))
        return F.pad(x, (-shift, shift))


@dataclass(frozen=True)
class Pad(AudioAugmentation):
    """Adds silence before and after, each of a random length, as around words in live audio.

    U(0, max_ms) milliseconds of zeros on each side; the length grows.
    """

    max_ms: float = 300.0
    probability: float = 1.0
    sample_rate: int = 16000

    def __post_init__(self) -> None:
        _check_range("max_ms", 0, self.max_ms)

    def change(self, x: Tensor, generator: Generator) -> Tensor:
        sides_ms = [_uniform(0, self.max_ms, generator) for _ in range(2)]
        before, after = (int(ms * self.sample_rate / 1000) for ms in sides_ms)
        return F.pad(x, (before, after))


@dataclass(frozen=True)
class Speed(AudioAugmentation):
    """Resamples to another speed, which also changes the pitch; the factor is a whole per cent.

    y(t) = x(f · t), f ~ U{min, min + 0.01, …, max}. Paper: Ko et al., Interspeech 2015.
    """

    min: float = 0.9
    max: float = 1.1
    probability: float = 1.0

    def __post_init__(self) -> None:
        _check_range("speed", self.min, self.max)
        if self.min < 0.01:
            raise ComponentError(f"min={self.min:g} is no speed; give a factor such as 0.9")

    def change(self, x: Tensor, generator: Generator) -> Tensor:
        percent = _integer(round(100 * self.min), round(100 * self.max), generator)
        return torch.from_numpy(soxr.resample(x[0].numpy(), percent, 100))[None]


@dataclass(frozen=True)
class Equalize(AudioAugmentation):
    """A smooth random gain over frequency, like that of another microphone.

    Y(f) = 10^(g(f) / 20) X(f). g interpolates linearly between `knots` values U(−max_db, max_db),
    evenly spaced on the scale log(1 + f / 700 Hz). The power of the audio is kept.
    """

    max_db: float = 10.0
    knots: int = 6
    probability: float = 1.0
    sample_rate: int = 16000

    def __post_init__(self) -> None:
        _check_range("max_db", 0, self.max_db)

    def change(self, x: Tensor, generator: Generator) -> Tensor:
        # zeros at the end keep the filter's tail from wrapping around to the start; an FFT of a
        # multiple of 512 samples is fast
        samples = x.shape[1]
        padded = (samples + self.sample_rate // 20 + 511) // 512 * 512
        hz = np.fft.rfftfreq(padded, 1 / self.sample_rate)
        scale = np.log1p(hz / 700)
        gains_db = [_uniform(-self.max_db, self.max_db, generator) for _ in range(self.knots)]
        curve_db = np.interp(scale, np.linspace(0, scale[-1], self.knots), gains_db)
        spectrum = np.fft.rfft(x[0].numpy(), padded) * 10 ** (curve_db / 20)
        y = torch.from_numpy(np.fft.irfft(spectrum, padded)[:samples]).to(x.dtype)[None]
        return y * _level_ratio(x, y)


@dataclass(frozen=True)
class AdditiveNoise(AudioAugmentation):
    """Adds a random part of a recording of noise, which is repeated if it is too short.

    y = x + a · n with 10 · log₁₀(Σx² / Σ(a·n)²) ~ U(min_snr_db, max_snr_db)
    `source` is a folder of recordings, or a manifest; it is listed on first use.
    """

    source: str
    min_snr_db: float = 0.0
    max_snr_db: float = 20.0
    probability: float = 1.0
    sample_rate: int = 16000

    def __post_init__(self) -> None:
        _check_range("snr_db", self.min_snr_db, self.max_snr_db)

    @cached_property
    def recordings(self) -> list[Utterance]:
        return _recordings(self.source)

    def change(self, x: Tensor, generator: Generator) -> Tensor:
        snr_db = _uniform(self.min_snr_db, self.max_snr_db, generator)
        chosen = _choice(self.recordings, generator)
        spare_s = max(0.0, chosen.duration_s - x.shape[1] / self.sample_rate)
        noise = read_audio(
            chosen.audio,
            target_rate=self.sample_rate,
            offset_s=chosen.offset_s + _uniform(0, spare_s, generator),
            duration_s=min(chosen.duration_s, x.shape[1] / self.sample_rate),
        )
        noise = noise.repeat(-(-x.shape[1] // len(noise)))[: x.shape[1]]
        return x + noise * _level_ratio(x, noise) * 10 ** (-snr_db / 20)


@dataclass(frozen=True)
class Reverb(AudioAugmentation):
    """Reverberation: convolution with a measured impulse response, without delay or gain.

    y[n] = a · Σₖ h[k] · x[n + d − k], d = argmax |h| (the direct path), Σy² = Σx²
    `source` is a folder of impulse responses, or a manifest; it is listed on first use.
    """

    source: str
    probability: float = 1.0
    sample_rate: int = 16000

    @cached_property
    def recordings(self) -> list[Utterance]:
        return _recordings(self.source)

    def change(self, x: Tensor, generator: Generator) -> Tensor:
        chosen = _choice(self.recordings, generator)
        room = read_audio(
            chosen.audio,
            target_rate=self.sample_rate,
            offset_s=chosen.offset_s,
            duration_s=chosen.duration_s,
        )
        samples = x.shape[1]
        size = 1 << (samples + len(room)).bit_length()
        # numpy, because the bits of torch's FFT depend on the number of threads
        spectrum = np.fft.rfft(x[0].numpy(), size) * np.fft.rfft(room.numpy(), size)
        direct = int(room.abs().argmax())
        y = torch.from_numpy(np.fft.irfft(spectrum, size)[direct : direct + samples]).to(x.dtype)
        return y[None] * _level_ratio(x, y)


@dataclass(frozen=True)
class Tempo:
    """Changes the speed without the pitch: features are stretched along time.

    y[:, t] = x[:, t · f], interpolated between neighbouring frames, f ~ U(min, max). The length
    changes, so it is not for models whose targets have times.
    """

    domain: ClassVar[Domain] = "features"
    min: float = 0.8
    max: float = 1.25
    probability: float = 1.0

    def __post_init__(self) -> None:
        _check_range("tempo", self.min, self.max)
        if self.min <= 0:
            raise ComponentError(f"min={self.min:g} is no tempo; give a factor such as 0.8")

    def __call__(self, x: Tensor, length: int, generator: Generator) -> tuple[Tensor, int]:
        if not _happens(self.probability, generator):
            return x, length
        frames = max(1, round(length / _uniform(self.min, self.max, generator)))
        y = F.interpolate(x[None, :, :length], size=frames, mode="linear", align_corners=False)
        return y[0], frames


@dataclass(frozen=True)
class SpecAugment(FeatureMasking):
    """Masks bands of frequencies and spans of time.

    Each width is uniform up to `freq_width` bands or `time_width` frames; a `time_width` below 1
    is a fraction of the utterance. Paper: arXiv:1904.08779.
    """

    freq_masks: int = 2
    freq_width: int = 15
    time_masks: int = 2
    time_width: float = 25
    probability: float = 1.0

    def mask(self, out: Tensor, generator: Generator) -> None:
        bands, frames = out.shape
        most = self.time_width if self.time_width >= 1 else max(1, self.time_width * frames)
        for _ in range(self.freq_masks):
            out[_stretch(bands, self.freq_width, generator)] = True
        for _ in range(self.time_masks):
            out[:, _stretch(frames, int(most), generator)] = True


@dataclass(frozen=True)
class SpecCutout(FeatureMasking):
    """Masks rectangles of up to `freq_width` bands × `time_width` frames.

    Paper: arXiv:1708.04552.
    """

    rects: int = 5
    freq_width: int = 15
    time_width: int = 25
    probability: float = 1.0

    def mask(self, out: Tensor, generator: Generator) -> None:
        bands, frames = out.shape
        for _ in range(self.rects):
            rows = _stretch(bands, self.freq_width, generator)
            out[rows, _stretch(frames, self.time_width, generator)] = True


def _happens(probability: float, generator: Generator) -> bool:
    return torch.rand((), generator=generator).item() < probability


def _uniform(low: float, high: float, generator: Generator) -> float:
    return low + (high - low) * torch.rand((), generator=generator).item()


def _integer(low: int, high: int, generator: Generator) -> int:
    """A uniform integer, both ends included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def _choice(items: list[Utterance], generator: Generator) -> Utterance:
    return items[_integer(0, len(items) - 1, generator)]


def _stretch(size: int, most: int, generator: Generator) -> slice:
    """A random span of up to `most` out of `size`."""
    start = _integer(0, max(0, size - most), generator)
    return slice(start, start + _integer(0, most, generator))


def _level_ratio(x: Tensor, y: Tensor) -> float:
    """√(Σx² / Σy²), or 0 where y is silent."""
    # numpy, because the bits of torch's sums depend on the number of threads
    energy_x, energy_y = (float(np.square(z.numpy(), dtype=np.float64).sum()) for z in (x, y))
    return (energy_x / energy_y) ** 0.5 if energy_y else 0.0


def _check_range(name: str, low: float, high: float) -> None:
    if low > high:
        raise ComponentError(f"{name}: the range {low:g} to {high:g} is empty; swap its ends")


def _recordings(source: str) -> list[Utterance]:
    path = Path(source)
    if path.is_file():
        return read_manifest(path)
    return [
        Utterance(audio=p.resolve(), duration_s=audio_duration_s(p)) for p in find_audio([path])
    ]
