"""Reads files, bytes, arrays and tensors as mono float32 arrays at one sample rate."""

import math
import os
import warnings
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from speechkit.config import check_range
from speechkit.data.foreign import Foreign
from speechkit.data.pipes import Piped, RawFormat
from speechkit.data.recording import File, Recording, check_rate, opened, source_name
from speechkit.data.samples import (
    LOUDEST,
    Channel,
    Samples,
    as_array,
    as_floats,
    check,
    mono,
)
from speechkit.errors import AudioError
from speechkit.io.arrays import is_array
from speechkit.limits import MAX_NUMBER
from speechkit.units import Seconds, to_samples

CLIPPED_SHARE = 0.01
"""The share of samples at full scale from which a recording counts as clipped."""

FULL_SCALE = 32767 / 32768
TOLERANCE = Seconds(0.1)
"""How much earlier than requested a recording may end, since manifests round durations."""

Source = File | Samples
Block = tuple[NDArray[np.float32], int, bool]
"""Samples `[N]` or `[N, channels]` at the rate of the source, that rate, and whether they are the
last."""

SKIPPED_FRAMES = 1 << 16
"""Where a source cannot seek, it is read this many frames at a time up to the requested ones."""

CANCELS = 1e-3
"""Channels count as cancelled where their mean has a smaller share of their power than this."""


class AudioWarning(UserWarning):
    """The audio can be used but is damaged."""


def read_samples(
    source: Source,
    sample_rate: int | None = None,
    target_rate: int = 16000,
    offset_s: float = 0.0,
    duration_s: float | None = None,
    *,
    channel: Channel = "mix",
    raw: RawFormat | None = None,
) -> NDArray[np.float32]:
    """Reads mono sound in [-1, 1] at `target_rate` hertz: the mean of all channels, or one of them.

    `source` is a path or the bytes of a file, an open binary file, or an array or tensor `[N]` or
    `[N, channels]` of float32, float64 or int16 (× 1/32768) with its `sample_rate`. Files are wav,
    flac, ogg, opus, mp3 or NIST sph. With the extra `av` or the program ffmpeg they may be m4a,
    mp4, webm, aac, wma or amr. A stream that cannot seek, such as standard input, holds WAV. With
    `raw` a source is samples without a header. Only `duration_s` seconds from `offset_s` are read.
    Values beyond ±1 are clipped, before the rate is changed. A file is read to its end, even if its
    header gives another length. Gives an AudioWarning where it is cut short, clipped, or its
    channels cancel each other.

    Shape: `[N]` float32.
    """
    blocks = list(
        read_sample_blocks(
            source, sample_rate, target_rate, offset_s, duration_s, channel=channel, raw=raw
        )
    )
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def read_sample_blocks(
    source: Source,
    sample_rate: int | None = None,
    target_rate: int = 16000,
    offset_s: float = 0.0,
    duration_s: float | None = None,
    block_s: float = math.inf,
    *,
    channel: Channel = "mix",
    raw: RawFormat | None = None,
) -> Iterator[NDArray[np.float32]]:
    """Reads like `read_samples`, but `block_s` seconds at a time, to need little memory.

    Errors and warnings come when reading reaches the fault, so earlier blocks may have been
    returned. Resampling keeps a few milliseconds of a block for the next one. A block of a pipe is
    returned as soon as it has arrived; without `block_s`, a block is all that has arrived.

    Shape: `[N]` float32 for each block.
    """
    name = source_name(source)
    if block_s != math.inf:
        check_range("block_s", block_s, 0, MAX_NUMBER, error=AudioError)
    if is_array(source):
        blocks = _from_array(source, sample_rate, offset_s, duration_s, block_s)
    else:
        blocks = _from_file(source, sample_rate, offset_s, duration_s, block_s, raw)
    resampler = None
    read = loud = given = 0
    power = mixed = 0.0
    for frames, rate, last in blocks:
        x = mono(frames, name, channel)
        check(x, name)
        if frames.ndim == 2 and frames.shape[1] > 1 and channel == "mix":
            power += float(np.square(frames, dtype=np.float64).mean(axis=1).sum())
            mixed += float(np.square(x, dtype=np.float64).sum())
        read += x.size
        loud += np.count_nonzero(np.abs(x) >= FULL_SCALE)
        x = np.clip(x, -1, 1)
        if rate != target_rate:
            # most recordings have the rate of the model
            from soxr import ResampleStream

            resampler = resampler or ResampleStream(rate, target_rate, 1, quality="HQ")
            # sound at full scale may reach beyond it between its samples
            x = np.clip(resampler.resample_chunk(x, last), -LOUDEST, LOUDEST)
        given += x.size
        if x.size or not last:
            yield x
    _warn_if_clipped(loud / max(1, read), name)
    if mixed < CANCELS * power:
        warnings.warn(
            f'the channels of {name} cancel each other in their mean; read channel="left"',
            AudioWarning,
            stacklevel=4,
        )
    if not given:
        raise AudioError(f"{name} holds no sound there; give at least one sample")


def audio_duration_s(path: str | os.PathLike[str]) -> Seconds:
    """The duration of a file, from its corrected header; m4a and webm are decoded instead."""
    with opened(path) as recording:
        if isinstance(recording, Recording):
            frames = recording.frames
        else:
            frames = 0
            while count := len(recording.read()):
                frames += count
        return Seconds(frames / recording.sample_rate)


def channel_count(source: File, raw: RawFormat | None = None) -> int:
    """The number of channels of a file."""
    if raw:
        return raw.channels
    with opened(source) as recording:
        return recording.channels


def sample_rate_of(source: File, raw: RawFormat | None = None) -> int:
    """The sample rate of a file, in hertz."""
    if raw:
        return raw.rate
    with opened(source) as recording:
        return recording.sample_rate


def _from_array(
    source: Samples,
    rate: int | None,
    offset_s: float,
    duration_s: float | None,
    block_s: float,
) -> Iterator[Block]:
    name = source_name(source)
    if rate is None:
        raise AudioError(f"{name} does not say its sample rate; pass sample_rate=16000 or its own")
    check_rate(rate, name)
    x = as_array(source)
    part = _part(len(x), rate, name, offset_s, duration_s, block_s)
    for start in part:
        end = min(start + part.step, part.stop)
        yield as_floats(x[start:end]), rate, end == part.stop


def _from_file(
    source: File,
    rate: int | None,
    offset_s: float,
    duration_s: float | None,
    block_s: float,
    raw: RawFormat | None,
) -> Iterator[Block]:
    name = source_name(source)
    with opened(source, raw) as recording:
        own = recording.sample_rate
        if rate not in (None, own):
            raise AudioError(f"{name} is at {own} Hz, not {rate}; omit sample_rate=")
        if not isinstance(recording, Recording):
            yield from _in_order(recording, offset_s, duration_s, block_s)
            return
        part = _part(recording.frames, own, name, offset_s, duration_s, block_s)
        recording.seek(part.start)
        start, given = part.start, 0
        while start < part.stop:
            end = min(start + part.step, part.stop)
            x = recording.read(end - start)
            given += len(x)
            ended = len(x) < end - start
            yield x, own, ended or end == part.stop
            if ended:
                break
            start = end
        if fault := recording.fault(ended=ended, reached=part.start + given):
            warnings.warn(f"{name} {fault}; copy the file again", AudioWarning, stacklevel=5)


def _in_order(
    sound: Piped | Foreign, offset_s: float, duration_s: float | None, block_s: float
) -> Iterator[Block]:
    """Blocks of a source that can only be read from its beginning."""
    rate, name = sound.sample_rate, sound.name
    _check_part(name, offset_s, duration_s)
    start = to_samples(Seconds(offset_s), rate)
    end = math.inf if duration_s is None else start + to_samples(Seconds(duration_s), rate)
    block = None if math.isinf(block_s) else max(1, to_samples(Seconds(block_s), rate))
    at, ended = 0, False
    while at < end and not ended:
        skipped = at < start
        wanted = min(SKIPPED_FRAMES, start - at) if skipped else block and int(min(block, end - at))
        x = sound.read(wanted)
        if at + len(x) > end:
            x = x[: int(end) - at]
        at += len(x)
        ended = len(x) < (wanted or 1)
        if not skipped:
            yield x, rate, ended or at == end
    if at <= start or (duration_s is not None and at < end - to_samples(TOLERANCE, rate)):
        raise _ends_early(name, at, rate, offset_s, duration_s)
    if ended and sound.fault:
        warnings.warn(f"{name} {sound.fault}; copy the file again", AudioWarning, stacklevel=6)


def _part(
    frames: int,
    rate: int,
    name: str,
    offset_s: float,
    duration_s: float | None,
    block_s: float,
) -> range:
    """The first frame of each block to read, up to the end of the last."""
    _check_part(name, offset_s, duration_s)
    start = to_samples(Seconds(offset_s), rate)
    count = frames - start if duration_s is None else to_samples(Seconds(duration_s), rate)
    if start >= frames or start + count > frames + to_samples(TOLERANCE, rate):
        raise _ends_early(name, frames, rate, offset_s, duration_s)
    count = min(count, frames - start)
    block = to_samples(Seconds(min(block_s, count / rate)), rate)
    return range(start, start + count, max(1, block))


def _check_part(name: str, offset_s: float, duration_s: float | None) -> None:
    # NaN makes a comparison false
    if not 0 <= offset_s <= MAX_NUMBER or not (duration_s is None or 0 < duration_s <= MAX_NUMBER):
        raise AudioError(
            f"cannot read {duration_s} s from {offset_s} s of {name}; give offset_s >= 0 and "
            "duration_s > 0"
        )


def _ends_early(
    name: str, frames: int, rate: int, offset_s: float, duration_s: float | None
) -> AudioError:
    if not frames:
        return AudioError(f"{name} holds no sound; give at least one sample")
    return AudioError(
        f"{name} ends at {frames / rate:g} s, before {offset_s + (duration_s or 0):g} s; "
        "check the offset and duration, or copy the file again"
    )


def _warn_if_clipped(share: float, name: str) -> None:
    if share >= CLIPPED_SHARE:
        warnings.warn(
            f"{name} is clipped: {share:.1%} of its samples are at full scale; record it quieter",
            AudioWarning,
            stacklevel=5,
        )
