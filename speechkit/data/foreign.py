"""Reads formats that libsndfile does not, such as m4a and webm, with PyAV or the program ffmpeg.

Their lengths are known only after decoding, so they are read in order like a pipe.
"""

import contextlib
import os
import shutil
import struct
import subprocess
import tempfile
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from speechkit.data.pipes import Piped, check_format
from speechkit.errors import AudioError, MissingExtraError
from speechkit.limits import MAX_FRAMES_PER_BYTE

SIGNS = {
    "mov": (4, b"ftyp"),
    "matroska": (0, b"\x1aE\xdf\xa3"),
    "asf": (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
    "amr": (0, b"#!AMR"),
}
"""The position and value of the bytes that identify a format, by ffmpeg's name for it."""
TOLERANCE_S = 0.5
"""How much longer than its audio a file's stated duration may be, since encoders add silence."""

Pieces = Generator[tuple[NDArray[np.float32], int], None, str]
"""Yields frames `[N, channels]` with their sample rate; returns the fault, empty if none."""


def kind_of(head: bytes) -> str | None:
    """ffmpeg's name for the format of a file that begins with these bytes, None for others."""
    # a frame of AAC begins with 12 bits of ones and layer 0; the layer of MP3 is not 0
    if head[:1] == b"\xff" and len(head) > 1 and head[1] & 0xF6 == 0xF0:
        return "aac"
    return next((kind for kind, (at, sign) in SIGNS.items() if head[at:].startswith(sign)), None)


class Reads(Protocol):
    """What PyAV needs of a stream."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, b"" at the end."""
        ...


class Foreign:
    """The audio of a file, decoded in order."""

    def __init__(self, stream: BinaryIO, kind: str, name: str) -> None:
        self.name, self.fault = name, ""
        self._most = stream.seek(0, os.SEEK_END) * MAX_FRAMES_PER_BYTE
        stream.seek(0)
        self._pieces = _decoded(stream, kind, name)
        self._given = 0
        self.channels, self.sample_rate = 1, 0
        self._waiting = self._next()
        if not self._given:
            raise AudioError(f"{name} holds no sound; give at least one sample")
        check_format(self.sample_rate, self.channels, name)

    def close(self) -> None:
        """Ends the decoder."""
        self._pieces.close()

    def read(self, frames: int | None = None) -> NDArray[np.float32]:
        """The next `frames` frames `[N, channels]`, fewer at the end; any number if it is None."""
        parts, count = [self._waiting], len(self._waiting)
        while count < (frames or 1) and len(x := self._next()):
            parts.append(x)
            count += len(x)
        joined = np.concatenate(parts) if len(parts) > 1 else parts[0]
        self._waiting = joined[frames:] if frames else joined[:0]
        return joined[:frames]

    def _next(self) -> NDArray[np.float32]:
        try:
            x, rate = next(self._pieces)
        except StopIteration as ended:
            self.fault = self.fault or ended.value or ""
            return np.zeros((0, self.channels), np.float32)
        if not self._given:
            self.channels, self.sample_rate = x.shape[1], rate
        self._given += len(x)
        if (x.shape[1], rate) != (self.channels, self.sample_rate):
            raise AudioError(f"{self.name} changes its rate or channels; convert it to WAV")
        if self._given > self._most:
            raise AudioError(f"{self.name} has more sound than its bytes can hold; copy it again")
        return x


def _decoded(stream: BinaryIO, kind: str, name: str) -> Pieces:
    if kind == "mov":
        _check_tables(stream, name)
    try:
        import av  # noqa: F401
    except ImportError as error:
        if program := shutil.which("ffmpeg"):
            return _by_ffmpeg(program, stream, kind, name)
        raise MissingExtraError(f"PyAV or a program ffmpeg for {name}", "av") from error
    return decoded_by_av(stream, kind, name)


TABLES = {b"stsz": 8, b"stz2": 8, b"stts": 0, b"ctts": 0, b"trun": 4}
"""Boxes of mp4 that list samples, and the position of their count; 0 for runs of samples."""
HOLDERS = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf")
MOST_BOXES = 100_000


def _check_tables(stream: BinaryIO, name: str) -> None:
    """Raises AudioError where the tables of an mp4 list more samples than it has bytes.

    ffmpeg allocates an index of all of them before it decodes.
    """
    size = stream.seek(0, os.SEEK_END)
    waiting, listed, boxes = [(0, size)], Counter[bytes](), 0
    while waiting:
        at, end = waiting.pop()
        while at + 8 <= end:
            stream.seek(at)
            length, box = struct.unpack(">I4s", stream.read(8))
            head = 8
            if length == 1:
                length, head = int.from_bytes(stream.read(8), "big"), 16
            last = end if length == 0 else min(end, at + length)
            if box in HOLDERS:
                waiting.append((at + head, last))
            elif box in TABLES:
                listed[box] += _listed(stream, TABLES[box], last - at - head)
            boxes += 1
            if listed[box] > size or boxes > MOST_BOXES:
                raise AudioError(f"{name} lists more samples than it has bytes; copy it again")
            at = max(last, at + 8)
    stream.seek(0)


def _listed(stream: BinaryIO, place: int, size: int) -> int:
    """The number of samples in the table whose content begins at `place`."""
    if place:
        return int.from_bytes(stream.read(place + 4)[place:], "big")
    count = int.from_bytes(stream.read(8)[4:], "big")
    runs = stream.read(min(8 * count, max(0, size - 8)))
    return sum(int.from_bytes(runs[i : i + 4], "big") for i in range(0, len(runs), 8))


def decoded_by_av(stream: Reads, kind: str, name: str) -> Pieces:
    """The audio of a stream, which need not seek, decoded with PyAV as its bytes come."""
    import av

    reached_s = promised_s = 0.0
    try:
        with av.open(stream, "r", format=kind, metadata_errors="replace") as container:
            if not container.streams.audio:
                raise AudioError(f"{name} has no sound track; give a file with sound")
            track = container.streams.audio[0]
            if track.duration and track.time_base:
                promised_s = float(track.duration * track.time_base)
            plain = av.AudioResampler(format="fltp")
            for frame in container.decode(track):
                for part in plain.resample(frame):
                    reached_s += part.samples / part.sample_rate
                    yield np.ascontiguousarray(part.to_ndarray().T), part.sample_rate
    # PyAV raises ValueError where the rate or the channels change
    except (av.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if not reached_s:
            raise AudioError(f"cannot decode {name}: {reason}; copy the file again") from error
        return f"cannot be decoded beyond {reached_s:g} s: {reason}"
    if promised_s > reached_s + TOLERANCE_S:
        return f"is cut short: it promises {promised_s:g} s and ends at {reached_s:g} s"
    return ""


def _by_ffmpeg(program: str, stream: BinaryIO, kind: str, name: str) -> Pieces:
    with contextlib.ExitStack() as stack:
        # ffmpeg must seek, which it cannot do in a pipe
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        with (folder / "sound").open("wb") as copy:
            shutil.copyfileobj(stream, copy)
        complaints = stack.enter_context(tempfile.TemporaryFile())
        command = [program, "-nostdin", "-v", "error", "-protocol_whitelist", "file", "-f", kind]
        command += ["-i", f"file:{folder / 'sound'}", "-map", "0:a:0", "-c:a", "pcm_f32le"]
        process = stack.enter_context(
            subprocess.Popen(
                [*command, "-f", "wav", "-protocol_whitelist", "pipe", "pipe:1"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=complaints,
            )
        )
        stack.callback(process.kill)
        assert process.stdout is not None
        given = False
        try:
            sound = Piped(process.stdout, name)  # type: ignore[arg-type]
            while len(x := sound.read()):
                given = True
                yield x, sound.sample_rate
        except AudioError as error:
            process.wait()
            raise AudioError(
                f"cannot decode {name}: {_last(complaints) or error}; copy the file again"
            ) from error
        process.wait()
        complaint = _last(complaints)
        if not given:
            raise AudioError(f"cannot decode {name}: {complaint or 'it holds no sound'}")
        return f"is damaged: {complaint}" if complaint else ""


def _last(file: BinaryIO) -> str:
    """The last line of a program's error output."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
    lines = file.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1].rpartition("] ")[2] if lines else ""
