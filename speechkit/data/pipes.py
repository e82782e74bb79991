"""Audio from a pipe, read without seeking: WAV, or raw samples of a given format."""

import io
import math
import struct
from dataclasses import dataclass
from typing import BinaryIO, Literal, get_args

import numpy as np
import soundfile
from numpy.typing import NDArray

from speechkit.errors import AudioError
from speechkit.limits import HIGHEST_RATE, LOWEST_RATE, MAX_CHANNELS, MAX_HEADER_BYTES

Encoding = Literal["s16le", "f32le"]
PCM, FLOAT, A_LAW, MU_LAW, EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
"""The fields at the start of the format chunk of a WAV."""
UNKNOWN_BYTES = 0x7FFF0000
"""Sizes from here on mean "until the end"; writers that cannot seek back leave them."""
PIECE_BYTES = 1 << 16
"""The most bytes read from a pipe at a time."""


@dataclass(frozen=True)
class RawFormat:
    """The format of samples without a header: little-endian, with interleaved channels."""

    encoding: Encoding
    rate: int = 16000
    channels: int = 1

    def __post_init__(self) -> None:
        if self.encoding not in get_args(Encoding):
            raise AudioError(
                f"raw samples in {self.encoding!r}; give {' or '.join(get_args(Encoding))}"
            )
        check_format(self.rate, self.channels, "raw sound")

    @property
    def description(self) -> bytes:
        """The format chunk of a WAV with these samples."""
        tag, size = (PCM, 2) if self.encoding == "s16le" else (FLOAT, 4)
        frame = size * self.channels
        return struct.pack(
            "<HHIIHH", tag, self.channels, self.rate, self.rate * frame, frame, 8 * size
        )


class Piped:
    """The audio of a stream that is read once, in order, as it arrives."""

    def __init__(self, stream: BinaryIO, name: str, raw: RawFormat | None = None) -> None:
        self.name, self._is_raw = name, raw is not None
        # a raw read returns the bytes that have arrived and does not wait for more
        self._read = getattr(stream, "read1", stream.read)
        self._pending = bytearray()
        self._left: float = math.inf
        description = raw.description if raw else self._read_header()
        _, self.channels, self.sample_rate, _, self._frame_bytes, _ = struct.unpack(
            "<HHIIHH", description[:16]
        )
        check_format(self.sample_rate, self.channels, name)
        self._head = b"WAVEfmt " + struct.pack("<I", len(description)) + description

    def read(self, frames: int | None = None) -> NDArray[np.float32]:
        """The next `frames` frames `[N, channels]`, fewer at the end.

        If `frames` is None, waits for one frame and returns all that have arrived. Raises
        AudioError where raw samples end within a frame.
        """
        wanted = (frames or 1) * self._frame_bytes
        while len(self._pending) < wanted and self._take():
            pass
        count, rest = divmod(len(self._pending), self._frame_bytes)
        if self._is_raw and rest and len(self._pending) < wanted:
            raise AudioError(
                f"{self.name} ends within a frame of {self._frame_bytes} bytes; check its encoding "
                "and channels"
            )
        data = bytes(self._pending[: min(count, frames or count) * self._frame_bytes])
        del self._pending[: len(data)]
        return self._decode(data)

    @property
    def fault(self) -> str:
        """The fault in the length after everything was read, empty if none."""
        missing = 0 if math.isinf(self._left) else self._left
        return f"is cut short: {missing:.0f} bytes are missing" if missing else ""

    def _decode(self, data: bytes) -> NDArray[np.float32]:
        """Decodes samples with libsndfile, as it would in a file, by putting a header before."""
        size = struct.pack("<I", len(data))
        file = b"RIFF" + struct.pack("<I", len(self._head) + 8 + len(data)) + self._head
        try:
            found: NDArray[np.float32] = soundfile.read(
                io.BytesIO(file + b"data" + size + data), dtype="float32", always_2d=True
            )[0]
        except soundfile.SoundFileError as error:
            raise AudioError(f"cannot decode {self.name}: {error}; pipe 16-bit WAV") from error
        return found

    def _take(self) -> bool:
        """Waits for more bytes of audio; False at the end."""
        data = self._more(int(min(PIECE_BYTES, self._left)))
        self._pending += data
        self._left -= len(data)
        return bool(data)

    def _more(self, size: int) -> bytes:
        data: bytes | None = self._read(size) if size else b""
        if data is None:
            raise AudioError(f"{self.name} gives no data without waiting; open it so that it waits")
        return data

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._more(min(PIECE_BYTES, size - len(data)))
            if not more:
                what = "ends within its header" if data else "ends before its sound"
                raise AudioError(f"{self.name} {what}; pipe a whole WAV")
            data += more
        return data

    def _read_header(self) -> bytes:
        """Reads up to the samples of a WAV; returns its format chunk."""
        start = self._more(12)
        if not start:
            raise AudioError(f"{self.name} is empty; pipe sound into it")
        start += self._exactly(12 - len(start)) if len(start) < 12 else b""
        if start[:4] not in (b"RIFF", b"RF64") or start[8:] != b"WAVE":
            raise AudioError(
                f"{self.name} begins with no WAV header; pipe WAV (ffmpeg -i FILE -f wav -), or "
                "give the format of raw samples: --raw s16le --rate 16000 --channels 1"
            )
        description, at, large = b"", 12, 0
        while at < MAX_HEADER_BYTES:
            name, size = struct.unpack("<4sI", self._exactly(8))
            if name == b"data":
                size = large if size == 0xFFFFFFFF and large else size
                # written before the length was known
                if 0 < size < UNKNOWN_BYTES or (large and size == large):
                    self._left = size
                return self._checked(description)
            at += 8 + size + size % 2
            if at >= MAX_HEADER_BYTES:
                break
            chunk = self._exactly(size + size % 2)
            if name == b"fmt ":
                description = chunk
            elif name == b"ds64" and size >= 16:
                large = int.from_bytes(chunk[8:16], "little")
        raise AudioError(
            f"{self.name} has no sound in its first {MAX_HEADER_BYTES} bytes; pipe another WAV"
        )

    def _checked(self, description: bytes) -> bytes:
        """The format chunk; raises AudioError for encodings without a fixed sample size."""
        if len(description) < 16:
            raise AudioError(f"{self.name} does not say its format; pipe a whole WAV")
        tag, channels, _, _, frame_bytes, bits = struct.unpack("<HHIIHH", description[:16])
        if tag == EXTENSIBLE:
            tag = int.from_bytes(description[24:26], "little")
        if (
            tag not in (PCM, FLOAT, A_LAW, MU_LAW)
            or bits % 8
            or frame_bytes != channels * bits // 8
        ):
            raise AudioError(
                f"{self.name} is a WAV in encoding {tag} of {bits} bits; pipe 16-bit WAV"
            )
        if not frame_bytes:
            raise AudioError(f"{self.name} has no channel or no bits; pipe 16-bit WAV")
        return description


def check_format(rate: int, channels: int, name: str) -> None:
    """Raises AudioError for an impossible sample rate or number of channels."""
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise AudioError(
            f"{name} is at {rate} Hz, expected {LOWEST_RATE} to {HIGHEST_RATE}; check its rate"
        )
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioError(f"{name} has {channels} channels, expected 1 to {MAX_CHANNELS}")
