"""Reads files, bytes, arrays and tensors as mono float32 arrays at one sample rate."""

import io
import math
import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from typing import BinaryIO

import numpy as np
import soundfile
from numpy.typing import NDArray

from speechkit.arrays import is_array
from speechkit.data.containers import contents
from speechkit.data.foreign import Foreign, kind_of
from speechkit.data.pipes import Piped, RawFormat
from speechkit.data.samples import Channel, Samples, as_array, as_floats, check, mono, name_of
from speechkit.errors import AudioError
from speechkit.limits import (
    HIGHEST_RATE,
    LOWEST_RATE,
    MAX_CHAINED,
    MAX_CHANNELS,
    MAX_FRAMES_AT_ONCE,
    MAX_FRAMES_PER_BYTE,
)
from speechkit.units import Seconds, to_samples

CLIPPED_SHARE = 0.01
"""The share of samples at full scale from which a recording counts as clipped."""

FULL_SCALE = 32767 / 32768
TOLERANCE = Seconds(0.1)
"""How much earlier than requested a recording may end, since manifests round durations."""

FORMATS = "wav, flac, ogg, opus, mp3, m4a, mp4, webm, aac or NIST sph"

Source = str | os.PathLike[str] | bytes | BinaryIO | Samples
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
    Values beyond ±1 are clipped. A file is read to its end, even if its header gives another
    length. Gives an AudioWarning where it is cut short, clipped, or its channels cancel each other.

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
    name = _name(source)
    if is_array(source):
        blocks = _from_array(source, sample_rate, offset_s, duration_s, block_s)
    else:
        blocks = _from_file(source, sample_rate, offset_s, duration_s, block_s, raw)
    resampler = None
    read = loud = given = 0
    power = mixed = 0.0
    for frames, rate, last in blocks:
        x = mono(frames, name, channel)
        if frames.ndim == 2 and frames.shape[1] > 1 and channel == "mix":
            power += float(np.square(frames, dtype=np.float64).mean(axis=1).sum())
            mixed += float(np.square(x, dtype=np.float64).sum())
        check(x, name)
        read += x.size
        loud += np.count_nonzero(np.abs(x) >= FULL_SCALE)
        if rate != target_rate:
            # most recordings have the rate of the model
            from soxr import ResampleStream

            resampler = resampler or ResampleStream(rate, target_rate, 1, quality="HQ")
            x = resampler.resample_chunk(x, last)
        given += x.size
        if x.size or not last:
            yield np.clip(x, -1, 1)
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
    with _opened(path) as recording:
        if isinstance(recording, _Recording):
            frames = recording.frames
        else:
            frames = 0
            while count := len(recording.read()):
                frames += count
        return Seconds(frames / recording.sample_rate)


def channel_count(
    source: str | os.PathLike[str] | bytes | BinaryIO, raw: RawFormat | None = None
) -> int:
    """The number of channels of a file."""
    if raw:
        return raw.channels
    with _opened(source) as recording:
        return recording.channels


def sample_rate_of(
    source: str | os.PathLike[str] | bytes | BinaryIO, raw: RawFormat | None = None
) -> int:
    """The sample rate of a file, in hertz."""
    if raw:
        return raw.rate
    with _opened(source) as recording:
        return recording.sample_rate


def _name(source: object) -> str:
    if isinstance(source, bytes):
        return f"the sound in {len(source)} bytes"
    if is_array(source):
        return name_of(source)
    if isinstance(source, str | os.PathLike):
        return str(source)
    name = getattr(source, "name", None)
    if name == "<stdin>":
        return "standard input"
    return name if isinstance(name, str) else type(source).__name__


def _from_array(
    source: Samples,
    rate: int | None,
    offset_s: float,
    duration_s: float | None,
    block_s: float,
) -> Iterator[Block]:
    name = _name(source)
    if rate is None:
        raise AudioError(f"{name} does not say its sample rate; pass sample_rate=16000 or its own")
    _check_rate(rate, name)
    x = as_array(source)
    part = _part(len(x), rate, name, offset_s, duration_s, block_s)
    for start in part:
        end = min(start + part.step, part.stop)
        yield as_floats(x[start:end]), rate, end == part.stop


def _from_file(
    source: str | os.PathLike[str] | bytes | BinaryIO,
    rate: int | None,
    offset_s: float,
    duration_s: float | None,
    block_s: float,
    raw: RawFormat | None,
) -> Iterator[Block]:
    name = _name(source)
    with _opened(source, raw) as recording:
        own = recording.sample_rate
        if rate not in (None, own):
            raise AudioError(f"{name} is at {own} Hz, not {rate}; omit sample_rate=")
        if not isinstance(recording, _Recording):
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


class _Recording:
    """An open file; the parts of a chained file are read as one sequence of frames."""

    def __init__(self, stream: BinaryIO, name: str, files: list[soundfile.SoundFile]) -> None:
        self.stream, self.name, self.files = stream, name, files
        self.sample_rate: int = files[0].samplerate
        self.channels: int = files[0].channels
        self.frames = sum(file.frames for file in files)
        self.promise = ""
        self._current = 0

    def seek(self, frame: int) -> None:
        """Moves to a frame, counted from the start of the first part."""
        self._current = 0
        while frame >= self.files[self._current].frames:
            frame -= self.files[self._current].frames
            self._current += 1
        self.files[self._current].seek(frame)

    def read(self, frames: int) -> NDArray[np.float32]:
        """The next frames `[N, channels]`, fewer at the end.

        Memory is allocated for the frames that exist, not for the number in the header.
        """
        pieces: list[NDArray[np.float32]] = []
        missing = frames
        while missing and self._current < len(self.files):
            file = self.files[self._current]
            wanted = min(missing, MAX_FRAMES_AT_ONCE, file.frames - file.tell())
            x = file.read(wanted, dtype="float32", always_2d=True)
            if len(x) < wanted or file.tell() == file.frames:
                self._current += 1
            missing -= len(x)
            # parts of a chain may have another number of channels than the first
            pieces.append(
                x if not pieces or x.shape[1] == pieces[0].shape[1] else _alike(x, pieces)
            )
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces or [np.zeros((0, 1), "f4")])

    def fault(self, *, ended: bool, reached: int) -> str:
        """The fault in the file's length after reading up to frame `reached`; empty if none."""
        if ended:
            promised_s, reached_s = self.frames / self.sample_rate, reached / self.sample_rate
            return f"is cut short: it promises {promised_s:g} s and ends at {reached_s:g} s"
        if reached < self.frames:
            return ""
        cut = any(_is_cut_short(file, self.stream) for file in self.files)
        return self.promise or ("is cut short: its end is missing" if cut else "")


def _alike(x: NDArray[np.float32], pieces: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The mean of the channels of `x`, repeated for each channel of the first piece."""
    return np.repeat(x.mean(axis=1, keepdims=True), pieces[0].shape[1], axis=1)


@contextmanager
def _opened(
    source: str | os.PathLike[str] | bytes | BinaryIO, raw: RawFormat | None = None
) -> Iterator["_Recording | Piped | Foreign"]:
    """Opens a file and its decoders; raises AudioError for whatever fails."""
    name = _name(source)
    try:
        with ExitStack() as stack:
            stream = stack.enter_context(_open(source, name))
            if raw or not stream.seekable():
                yield Piped(stream, name, raw)
                return
            stream.seek(0)
            head = stream.read(16)
            if not head:
                raise AudioError(f"{name} is an empty file; give one with sound")
            if kind := kind_of(head):
                yield stack.enter_context(closing(Foreign(stream, kind, name)))
                return
            size_bytes = stream.seek(0, io.SEEK_END)
            found = contents(stream)
            files: list[soundfile.SoundFile] = []
            for part in found.parts:
                files.append(stack.enter_context(soundfile.SoundFile(part)))
                # each part has its own decoder
                if len(files) > 1 and sum(file.channels for file in files) > MAX_CHAINED:
                    raise AudioError(
                        f"{name} joins more than {MAX_CHAINED} channels of {len(found.parts)} "
                        "recordings; split it where it was joined"
                    )
            recording = _Recording(stream, name, files)
            recording.promise = found.fault
            _check_header(recording, size_bytes)
            yield recording
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise AudioError(f"cannot open {name}: {reason}; give an audio file") from error
    # soundfile raises TypeError for a name that ends in .raw
    except (soundfile.SoundFileError, TypeError) as error:
        raise AudioError(f"cannot decode {name}: {_reason(error)}; give {FORMATS}") from error


def _open(
    source: str | os.PathLike[str] | bytes | BinaryIO, name: str
) -> AbstractContextManager[BinaryIO]:
    """The bytes of a source; a stream that the caller opened is not closed."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if isinstance(source, str | os.PathLike):
        mode = os.stat(source).st_mode
        # opening a pipe or a device could block for ever
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise AudioError(
                f"{name} is not a regular file; give an audio file, or - and pipe its sound in"
            )
        return open(source, "rb")
    if not hasattr(source, "read") or source.read(0) != b"":
        raise AudioError(
            f"cannot read {name}; give a path, bytes, an open binary file, a numpy array or a "
            "tensor"
        )
    return nullcontext(source)


def _check_header(recording: _Recording, size_bytes: int) -> None:
    """Raises AudioError for impossible values in the header, before memory is allocated."""
    name = recording.name
    for file in recording.files:
        _check_rate(file.samplerate, name)
        if file.samplerate != recording.sample_rate:
            raise AudioError(f"{name} changes its sample rate; split it where it was joined")
        if file.channels > MAX_CHANNELS:
            raise AudioError(f"{name} has {file.channels} channels, expected 1 to {MAX_CHANNELS}")
    if recording.frames > size_bytes * MAX_FRAMES_PER_BYTE:
        raise AudioError(
            f"cannot decode {name}: {size_bytes} bytes cannot hold the {recording.frames} samples "
            "that its header promises; copy the file again"
        )


def _check_rate(rate: int, name: str) -> None:
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise AudioError(
            f"{name} is at {rate} Hz, expected {LOWEST_RATE} to {HIGHEST_RATE}; check its rate"
        )


def _reason(error: Exception) -> str:
    """The decoder's message without the file name, which is wrong for a stream."""
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
    _check_part(name, offset_s, duration_s)
    start = to_samples(Seconds(offset_s), rate)
    count = frames - start if duration_s is None else to_samples(Seconds(duration_s), rate)
    if start >= frames or start + count > frames + to_samples(TOLERANCE, rate):
        raise _ends_early(name, frames, rate, offset_s, duration_s)
    count = min(count, frames - start)
    block = to_samples(Seconds(min(block_s, count / rate)), rate)
    return range(start, start + count, max(1, block))


def _check_part(name: str, offset_s: float, duration_s: float | None) -> None:
    if offset_s < 0 or (duration_s is not None and duration_s <= 0):
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


def _is_cut_short(file: soundfile.SoundFile, stream: BinaryIO) -> bool:
    """True where the header gives more than the file holds, which libsndfile silently accepts."""
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


def _warn_if_clipped(share: float, name: str) -> None:
    if share >= CLIPPED_SHARE:
        warnings.warn(
            f"{name} is clipped: {share:.1%} of its samples are at full scale; record it quieter",
            AudioWarning,
            stacklevel=5,
        )
