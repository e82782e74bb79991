"""Sound in: files, bytes, arrays and tensors become mono float32 at one sample rate."""

import io
import math
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, TypeGuard

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from speechkit.errors import AudioError
from speechkit.units import Seconds, to_samples

CLIPPED_SHARE = 0.01
"""The share of samples at full scale from which a recording counts as clipped."""

FULL_SCALE = 32767 / 32768
TOLERANCE = Seconds(0.1)
"""How much earlier than asked a recording may end: manifests round their durations."""

FORMATS = "wav, flac, ogg, opus, mp3 or NIST sph"

Source = str | os.PathLike[str] | bytes | np.ndarray | Tensor
Block = tuple[np.ndarray, int, bool]
"""Mono samples at a source's own rate, that rate, and whether they are the last."""


class AudioWarning(UserWarning):
    """Sound that can be used but is damaged."""


def read_audio(
    source: Source,
    sample_rate: int | None = None,
    target_rate: int = 16000,
    offset_s: float = 0.0,
    duration_s: float | None = None,
) -> Tensor:
    """Reads mono sound in [-1, 1] at `target_rate` hertz; two channels are averaged.

    `source` is a path or the bytes of a file (wav, flac, ogg, opus, mp3, NIST sph), or an array or
    tensor `[N]` or `[N, channels]` of float32, float64 or int16 (× 1/32768) with its `sample_rate`.
    Only `duration_s` seconds from `offset_s` are read. Values beyond ±1 are clipped.

    Shape: `[N]` float32.
    """
    (x,) = read_blocks(source, sample_rate, target_rate, offset_s, duration_s)
    return x


def read_blocks(
    source: Source,
    sample_rate: int | None = None,
    target_rate: int = 16000,
    offset_s: float = 0.0,
    duration_s: float | None = None,
    block_s: float = math.inf,
) -> Iterator[Tensor]:
    """Reads what `read_audio` does, `block_s` seconds at a time, so that hours need little memory.

    A fault is raised, or warned of, where the reading meets it: the caller may have blocks already.
    Resampling holds a few milliseconds of a block back for the next one.

    Shape: `[N]` float32 for each block.
    """
    name = _name(source)
    if isinstance(source, np.ndarray | Tensor):
        blocks = _from_array(source, sample_rate, offset_s, duration_s, block_s)
    elif isinstance(source, str | os.PathLike | bytes):
        blocks = _from_file(source, sample_rate, offset_s, duration_s, block_s)
    else:
        raise AudioError(f"cannot read {name}; give a path, bytes, a numpy array or a tensor")
    resampler = None
    heard = loud = given = 0
    for x, rate, last in blocks:
        _check(x, name)
        heard += x.size
        loud += np.count_nonzero(np.abs(x) >= FULL_SCALE)
        if rate != target_rate:
            resampler = resampler or soxr.ResampleStream(rate, target_rate, 1, quality="HQ")
            x = resampler.resample_chunk(x, last)
        given += x.size
        yield torch.from_numpy(np.clip(x, -1, 1))
    _warn_if_clipped(loud / max(1, heard), name)
    if not given:
        raise AudioError(f"{name} holds no sound there; give at least one sample")


def mono_samples(source: np.ndarray | Tensor) -> np.ndarray:
    """An array or tensor of samples as mono float32 in [-1, 1], at whatever rate it has.

    Shape: `[N]` or `[N, channels]` of float32, float64 or int16, N ≥ 0; returns `[N]`.
    """
    if is_sound(source, 1):
        return source
    name = _name(source)
    if not isinstance(source, np.ndarray | Tensor):
        raise AudioError(f"cannot read {name} as samples; give a numpy array or a tensor")
    x = _mono_array(source, name)
    _check(x, name)
    return np.clip(x, -1, 1)


def is_sound(source: object, dimensions: int) -> TypeGuard[np.ndarray]:
    """Whether samples are float32 in [-1, 1] already, as most of a live stream's are."""
    if not isinstance(source, np.ndarray) or source.dtype != np.float32:
        return False
    if source.ndim != dimensions or not source.size:
        return False
    # a NaN makes the comparison false
    return bool(np.maximum.reduce(np.abs(source), axis=None) <= 1)


def audio_duration_s(path: str | os.PathLike[str]) -> Seconds:
    """The duration of a file, from its header."""
    with _opened(path) as (_, file):
        return Seconds(file.frames / file.samplerate)


def _name(source: object) -> str:
    if isinstance(source, bytes):
        return f"the sound in {len(source)} bytes"
    if isinstance(source, np.ndarray | Tensor):
        return f"{type(source).__name__} of shape {tuple(source.shape)}"
    return str(source) if isinstance(source, str | os.PathLike) else type(source).__name__


def _from_array(
    source: np.ndarray | Tensor,
    rate: int | None,
    offset_s: float,
    duration_s: float | None,
    block_s: float,
) -> Iterator[Block]:
    name = _name(source)
    if rate is None:
        raise AudioError(f"{name} does not say its sample rate; pass sample_rate=16000 or its own")
    if rate <= 0:
        raise AudioError(f"sample_rate={rate} is not a rate; pass one in hertz, such as 16000")
    frames = len(source) if source.ndim else 0
    part = _part(frames, rate, name, offset_s, duration_s, block_s)
    for start in part:
        end = min(start + part.step, part.stop)
        yield _mono_array(source[start:end], name), rate, end == part.stop


def _mono_array(source: np.ndarray | Tensor, name: str) -> np.ndarray:
    dtype = str(source.dtype).removeprefix("torch.")
    if dtype not in ("float32", "float64", "int16"):
        raise AudioError(f"{name} is {dtype}; convert it to float32 in [-1, 1] or to int16")
    x = source.detach().cpu().numpy() if isinstance(source, Tensor) else source
    if x.ndim not in (1, 2):
        raise AudioError(f"{name} is neither [N] nor [N, channels]; give one utterance")
    x = x.astype(np.float32) / (32768 if x.dtype == np.int16 else 1)
    return _mono(x, name, "x[:, 0], or x.T where time is the last axis")


def _from_file(
    source: str | os.PathLike[str] | bytes,
    rate: int | None,
    offset_s: float,
    duration_s: float | None,
    block_s: float,
) -> Iterator[Block]:
    name = _name(source)
    with _opened(source) as (stream, file):
        if rate not in (None, file.samplerate):
            raise AudioError(f"{name} is at {file.samplerate} Hz, not {rate}; omit sample_rate=")
        part = _part(file.frames, file.samplerate, name, offset_s, duration_s, block_s)
        file.seek(part.start)
        for start in part:
            end = min(start + part.step, part.stop)
            x = file.read(end - start, dtype="float32", always_2d=True)
            if len(x) < end - start or (end == part.stop and _is_cut_short(file, stream)):
                raise AudioError(f"{name} is cut short: its end is missing; copy the file again")
            pick = f"ffmpeg -i {name} -filter:a 'pan=mono|c0=c0' mono.wav"
            yield _mono(x, name, pick), file.samplerate, end == part.stop


@contextmanager
def _opened(
    source: str | os.PathLike[str] | bytes,
) -> Iterator[tuple[BinaryIO, soundfile.SoundFile]]:
    """The bytes of a file and their decoder; what goes wrong with either is an AudioError."""
    name = _name(source)
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as stream:
            if not stream.read(1):
                raise AudioError(f"{name} is an empty file; give one with sound")
            stream.seek(0)
            with soundfile.SoundFile(stream) as file:
                yield stream, file
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise AudioError(f"cannot open {name}: {reason}; give an audio file") from error
    # soundfile raises TypeError for a name that ends in .raw
    except (soundfile.SoundFileError, TypeError) as error:
        raise AudioError(f"cannot decode {name}: {_reason(error)}; give {FORMATS}") from error


def _reason(error: Exception) -> str:
    """The decoder's own words without the file's name, which it does not know."""
    text = getattr(error, "error_string", str(error))
    return " ".join(text.removeprefix("Error : ").split()).rstrip(".")


def _part(
    frames: int,
    rate: int,
    name: str,
    offset_s: float,
    duration_s: float | None,
    block_s: float,
) -> range:
    """The first frame of each block to read, up to the end of the last."""
    if not frames:
        raise AudioError(f"{name} holds no sound; give at least one sample")
    if offset_s < 0 or (duration_s is not None and duration_s <= 0):
        raise AudioError(
            f"cannot read {duration_s} s from {offset_s} s of {name}; give offset_s >= 0 and "
            "duration_s > 0"
        )
    start = to_samples(Seconds(offset_s), rate)
    count = frames - start if duration_s is None else to_samples(Seconds(duration_s), rate)
    if start >= frames or start + count > frames + to_samples(TOLERANCE, rate):
        raise AudioError(
            f"{name} ends at {frames / rate:g} s, before {offset_s + (duration_s or 0):g} s; "
            "check the offset and duration, or copy the file again"
        )
    count = min(count, frames - start)
    block = to_samples(Seconds(min(block_s, count / rate)), rate)
    return range(start, start + count, max(1, block))


def _is_cut_short(file: soundfile.SoundFile, stream: BinaryIO) -> bool:
    """Whether the header promises more than the file holds, which libsndfile silently accepts."""
    if file.format == "OGG":
        stream.seek(-min(stream.seek(0, io.SEEK_END), 65536), io.SEEK_END)
        tail = stream.read()
        page = tail[tail.rfind(b"OggS") :]
        # RFC 3533 §6: bit 2 of byte 5 marks the last page, byte 26 counts the sizes that follow it
        if len(page) < 27 or not page[5] & 4:
            return True
        return len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]])
    if file.format == "NIST":
        stream.seek(0)
        promised = re.search(rb"sample_count -i (\d+)", stream.read(1024))
        return promised is not None and int(promised[1]) > file.frames
    sizes = re.search(r"(?:data|SSND|Data Size) +: (\d+) \(should be (\d+)\)", file.extra_info)
    # a writer that cannot seek back leaves a size near 2³¹ or 2³² for "until the end"
    return sizes is not None and int(sizes[2]) < int(sizes[1]) < 0x7FFF0000


def _mono(x: np.ndarray, name: str, how_to_pick: str) -> np.ndarray:
    if x.ndim == 2 and x.shape[1] not in (1, 2):
        raise AudioError(
            f"{name} has {x.shape[1]} channels, expected 1 or 2; pick one: {how_to_pick}"
        )
    return x if x.ndim == 1 else sum(x.T) / x.shape[1]


def _check(x: np.ndarray, name: str) -> None:
    if not np.isfinite(x).all():
        raise AudioError(f"{name} contains NaN or infinity; repair it or leave it out")
    loudness = np.abs(x)
    peak = loudness.max(initial=0)
    if peak > 2:
        raise AudioError(
            f"{name} reaches {peak:g}, expected [-1, 1]; divide it by its full scale, such as 32768"
        )


def _warn_if_clipped(share: float, name: str) -> None:
    if share >= CLIPPED_SHARE:
        warnings.warn(
            f"{name} is clipped: {share:.1%} of its samples are at full scale; record it quieter",
            AudioWarning,
            stacklevel=4,
        )
