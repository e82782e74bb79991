"""Opens files, bytes and streams of audio, with their decoders and corrected headers."""

import io
import os
import re
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from numbers import Real
from typing import BinaryIO

import numpy as np
import soundfile
from numpy.typing import NDArray

from speechkit.data.containers import contents
from speechkit.data.foreign import Foreign, kind_of
from speechkit.data.pipes import Piped, RawFormat
from speechkit.data.samples import name_of
from speechkit.errors import AudioError
from speechkit.io.arrays import is_array
from speechkit.limits import (
    HIGHEST_RATE,
    LOWEST_RATE,
    MAX_CHAINED,
    MAX_CHANNELS,
    MAX_FRAMES_AT_ONCE,
    MAX_FRAMES_PER_BYTE,
)

FORMATS = "wav, flac, ogg, opus, mp3, m4a, mp4, webm, aac or NIST sph"

File = str | os.PathLike[str] | bytes | BinaryIO
"""A path, the bytes of a file, or an open binary file."""


class Recording:
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
def opened(source: File, raw: RawFormat | None = None) -> Iterator["Recording | Piped | Foreign"]:
    """Opens a file and its decoders; raises AudioError for whatever fails."""
    name = source_name(source)
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
            recording = Recording(stream, name, files)
            recording.promise = found.fault
            _check_header(recording, size_bytes)
            yield recording
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise AudioError(f"cannot open {name}: {reason}; give an audio file") from error
    # soundfile raises TypeError for a name that ends in .raw
    except (soundfile.SoundFileError, TypeError) as error:
        raise AudioError(f"cannot decode {name}: {_reason(error)}; give {FORMATS}") from error


def _open(source: File, name: str) -> AbstractContextManager[BinaryIO]:
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


def _check_header(recording: Recording, size_bytes: int) -> None:
    """Raises AudioError for impossible values in the header, before memory is allocated."""
    name = recording.name
    for file in recording.files:
        check_rate(file.samplerate, name)
        if file.samplerate != recording.sample_rate:
            raise AudioError(f"{name} changes its sample rate; split it where it was joined")
        if file.channels > MAX_CHANNELS:
            raise AudioError(f"{name} has {file.channels} channels, expected 1 to {MAX_CHANNELS}")
    if recording.frames > size_bytes * MAX_FRAMES_PER_BYTE:
        raise AudioError(
            f"cannot decode {name}: {size_bytes} bytes cannot hold the {recording.frames} samples "
            "that its header promises; copy the file again"
        )


def check_rate(rate: int, name: str) -> None:
    """Raises AudioError for a sample rate that no recording has."""
    number = isinstance(rate, Real)
    if not number or not LOWEST_RATE <= rate <= HIGHEST_RATE:
        shown = rate if number else f"{rate!r:.40}"
        raise AudioError(
            f"{name} is at {shown} Hz, expected {LOWEST_RATE} to {HIGHEST_RATE}; check its rate"
        )


def _reason(error: Exception) -> str:
    """The decoder's message without the file name, which is wrong for a stream."""
    text = getattr(error, "error_string", str(error))
    return " ".join(text.removeprefix("Error : ").split()).rstrip(".")


def source_name(source: object) -> str:
    """The name of a source in messages."""
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


def _is_cut_short(file: soundfile.SoundFile, stream: BinaryIO) -> bool:
    """True if the header gives more than the file holds, which libsndfile silently accepts."""
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
