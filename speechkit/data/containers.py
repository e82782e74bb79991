"""Corrects the length in the header of audio files that have a wrong one.

libsndfile reads the number of samples in the header. Recorders that write to a pipe or crash leave
no length or one that is too large. MP3 files without a Xing header have none, and the header of
joined Ogg files covers only the first part. Sources: RIFF WAVE; RFC 9639 (FLAC); RFC 3533 (Ogg);
ISO 11172-3 and the Xing header (MP3).
"""

import functools
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

from speechkit.limits import MAX_MP3_BYTES

SCAN_BYTES = 1 << 20
"""The number of bytes at the start of a file that are searched for a frame."""
FLAC_HEADERS = 16
"""How many headers of FLAC frames are tried from the end of a file."""


class Corrected(io.RawIOBase):
    """The bytes from `start` to `end` of a stream, with its first bytes replaced by `head`."""

    def __init__(self, stream: BinaryIO, head: bytes, start: int, end: int) -> None:
        self._stream, self._head, self._start = stream, head, start
        self._size, self._at = len(head) + end - start, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, origin + offset)
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = max(0, min(len(buffer), self._size - self._at))
        found = self._head[self._at : self._at + count]
        if len(found) < count:
            self._stream.seek(self._start + self._at + len(found) - len(self._head))
            found += self._stream.read(count - len(found))
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)


@dataclass(frozen=True)
class Contents:
    """The parts of a recording, each a stream that libsndfile reads to its end, and its fault.

    `fault` continues a sentence that begins with the file name. It is empty where the header was
    right or gave no length.
    """

    parts: tuple[BinaryIO, ...]
    fault: str = ""


def contents(stream: BinaryIO) -> Contents:
    """The parts of a seekable file; a file of an unknown format is one part, unchanged."""
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    head = stream.read(4)
    stream.seek(0)
    if head in (b"RIFF", b"RF64"):
        found = _wav(stream, size)
    elif head == b"fLaC":
        found = _flac(stream, size)
    elif head == b"OggS":
        found = _ogg(stream, size)
    elif head[:3] == b"ID3" or (head[:1] == b"\xff" and _MP3Header.parse(head)):
        found = _mp3(stream, size)
    else:
        found = Contents((stream,))
    stream.seek(0)
    # libsndfile seeks before the beginning of damaged files, which only `Corrected` accepts
    parts = (_corrected(part, b"", 0, size) if part is stream else part for part in found.parts)
    return replace(found, parts=tuple(parts))


# WAV


def _wav(stream: BinaryIO, size: int) -> Contents:
    """An empty data chunk that is followed by bytes is extended to the end of the file."""
    at, large = 12, 0
    while at + 8 <= size:
        stream.seek(at)
        name, length = stream.read(4), int.from_bytes(stream.read(4), "little")
        if name == b"ds64":
            # the 64-bit sizes of an RF64; the second is that of the data
            large = at + 16
        elif name == b"data":
            stream.seek(0)
            head = bytearray(stream.read(at + 8))
            if large and length == 0xFFFFFFFF and not any(head[large : large + 8]):
                head[large : large + 8] = (size - at - 8).to_bytes(8, "little")
                return Contents((_corrected(stream, bytes(head), at + 8, size),))
            if length or at + 8 == size:
                break
            head[4:8] = min(size - 8, 0xFFFFFFFF).to_bytes(4, "little")
            head[at + 4 :] = min(size - at - 8, 0xFFFFFFFF).to_bytes(4, "little")
            return Contents((_corrected(stream, bytes(head), at + 8, size),))
        at += 8 + length + length % 2
        if at > SCAN_BYTES:
            break
    return Contents((stream,))


# FLAC


def _flac(stream: BinaryIO, size: int) -> Contents:
    """The number of samples in STREAMINFO is replaced by that at the end of the last full frame."""
    head = bytearray(stream.read(42))
    if len(head) < 42 or head[4] & 0x7F:
        return Contents((stream,))
    promised = int.from_bytes(head[21:26], "big") & (1 << 36) - 1
    smallest, largest = (int.from_bytes(head[i : i + 2], "big") for i in (8, 10))
    found = _flac_end(stream, size, largest if smallest == largest else 0)
    if found is None or found[0] in (0, promised):
        return Contents((stream,))
    samples, end = found
    first = int.from_bytes(head[21:26], "big") >> 36
    head[21:26] = (first << 36 | samples).to_bytes(5, "big")
    # the checksum over all samples is no longer valid; zero means unknown
    head[26:42] = bytes(16)
    fault = _differing(samples, promised, "samples") if promised else ""
    return Contents((_corrected(stream, bytes(head), 42, end),), fault)


def _flac_end(stream: BinaryIO, size: int, block: int) -> tuple[int, int] | None:
    """The samples up to the end of the last full frame, and the byte after it."""
    start = max(42, size - SCAN_BYTES)
    stream.seek(start)
    tail = stream.read()
    at, ends = len(tail), [len(tail)]
    while (at := tail.rfind(b"\xff", 0, at)) >= 0 and len(ends) <= FLAC_HEADERS:
        frame = _flac_frame(tail[at : at + 16], block)
        if frame is None:
            continue
        for end in ends:
            if _crc16(tail[at : end - 2]) == int.from_bytes(tail[end - 2 : end], "big"):
                return sum(frame), start + end
        # the frame is cut short and the one before it ends here, or this is no frame but a part of
        # one that looks like a header
        ends.append(at)
    return None


def _flac_frame(head: bytes, block: int) -> tuple[int, int] | None:
    """The first sample and the number of samples of a frame, None for a broken header."""
    if len(head) < 6 or head[0] != 0xFF or head[1] & 0xFE != 0xF8:
        return None
    extra = 0
    while head[4] & 0x80 >> extra and extra < 8:
        extra += 1
    more = max(0, extra - 1)
    if extra in (1, 8) or len(head) < 8 + more:
        return None
    number = head[4] & (0x7F >> extra)
    for byte in head[5 : 5 + more]:
        number = number << 6 | byte & 0x3F
    at, code = 5 + more, head[2] >> 4
    if code in (6, 7):
        samples = int.from_bytes(head[at : at + code - 5], "big") + 1
        at += code - 5
    elif code < 6:
        samples = {0: 0, 1: 192}.get(code, 144 << code)
    else:
        samples = 1 << code
    at += {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)
    if not samples or at >= len(head) or _crc8(head[:at]) != head[at]:
        return None
    return (number if head[1] & 1 else number * block), samples


def _crc8(data: bytes) -> int:
    return functools.reduce(lambda crc, byte: CRC8[crc ^ byte], data, 0)


def _crc16(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc = (crc << 8 & 0xFFFF) ^ CRC16[crc >> 8 ^ byte]
    return crc


def _table(polynomial: int, bits: int) -> tuple[int, ...]:
    top, mask = 1 << bits - 1, (1 << bits) - 1

    def entry(value: int) -> int:
        crc = value << bits - 8
        for _ in range(8):
            crc = (crc << 1 ^ (polynomial if crc & top else 0)) & mask
        return crc

    return tuple(map(entry, range(256)))


CRC8, CRC16 = _table(0x07, 8), _table(0x8005, 16)


# Ogg


def _ogg(stream: BinaryIO, size: int) -> Contents:
    """Each stream of a chained file is a part; files with interleaved streams are not changed."""
    starts, last_ended, at = [], True, 0
    while at + 27 <= size:
        stream.seek(at)
        page = stream.read(27)
        if page[:4] != b"OggS":
            break
        if page[5] & 2 and last_ended:
            starts.append(at)
        last_ended = bool(page[5] & 4)
        table = stream.read(page[26])
        at += 27 + len(table) + sum(table)
    if len(starts) < 2:
        return Contents((stream,))
    ends = [*starts[1:], size]
    return Contents(tuple(_corrected(stream, b"", a, b) for a, b in zip(starts, ends, strict=True)))


# MP3


@dataclass(frozen=True)
class _MP3Header:
    """The 4-byte header of a frame of layer III: its kind, bytes and samples."""

    kind: int
    size: int
    samples: int
    side_bytes: int

    @staticmethod
    @functools.lru_cache(4096)
    def parse(head: bytes) -> "_MP3Header | None":
        bits = int.from_bytes(head[:4], "big")
        version, layer = bits >> 19 & 3, bits >> 17 & 3
        bitrate, rate = bits >> 12 & 15, bits >> 10 & 3
        if bits >> 21 != 0x7FF or version == 1 or layer != 1 or bitrate in (0, 15) or rate == 3:
            return None
        newest, mono = version == 3, bits >> 6 & 3 == 3
        hertz = (44100, 48000, 32000)[rate] >> {3: 0, 2: 1, 0: 2}[version]
        kbits = (MPEG1_KBITS if newest else MPEG2_KBITS)[bitrate - 1]
        size = (144 if newest else 72) * kbits * 1000 // hertz + (bits >> 9 & 1)
        side = (17 if mono else 32) if newest else (9 if mono else 17)
        return _MP3Header(bits & 0xFFFE0C00, size, 1152 if newest else 576, side)


MPEG1_KBITS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
MP3_DELAY_SAMPLES = 576
"""The least number of samples that any known encoder adds before the audio."""
MPEG2_KBITS = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)


def _mp3(stream: BinaryIO, size: int) -> Contents:
    """Files without a Xing header, or with a wrong count in it, get a right one. Each of several
    joined files is a part."""
    if size > MAX_MP3_BYTES:
        return Contents((stream,))
    stream.seek(0)
    data = stream.read()
    frames = list(_mp3_frames(data))
    if not frames:
        return Contents((stream,))
    # a file of less than two frames after its header cannot be decoded
    starts = [0, *(i for i in range(1, len(frames) - 2) if _xing(data, *frames[i]))]
    ends = [*starts[1:], len(frames)]
    found = [_mp3_part(data, frames[a:b]) for a, b in zip(starts, ends, strict=True)]
    if len(found) == 1 and not found[0].head:
        return Contents((stream,))
    parts = [_corrected(stream, part.head, part.start, part.end) for part in found]
    return Contents(tuple(parts), next((part.fault for part in found if part.fault), ""))


def _xing(data: bytes, at: int, header: _MP3Header) -> bytes:
    """The Xing header in a file's first frame, empty if there is none."""
    info = data[at + 4 + header.side_bytes : at + header.size]
    return info if info[:4] in (b"Xing", b"Info") and len(info) >= 16 and info[7] & 1 else b""


@dataclass(frozen=True)
class _MP3Part:
    """One of several joined files: its position, and the bytes that replace its first ones."""

    start: int
    end: int
    head: bytes = b""
    fault: str = ""


def _mp3_part(data: bytes, frames: list[tuple[int, _MP3Header]]) -> _MP3Part:
    (at, header), (last, final) = frames[0], frames[-1]
    info, end = _xing(data, at, header), last + final.size
    if not info:
        return _MP3Part(at, end, _xing_frame(data[at : at + 4], len(frames), end - at))
    counted, promised = len(frames) - 1, int.from_bytes(info[8:12], "big")
    if promised == counted:
        return _MP3Part(at, end)
    # its other fields, such as the encoder's padding, are still right
    start, place = at + header.size, at + 12 + header.side_bytes
    head = data[at:place] + counted.to_bytes(4, "big") + data[place + 4 : start]
    if info[7] & 2:
        size_bytes = header.size + end - start
        head = head[: place - at + 4] + size_bytes.to_bytes(4, "big") + head[place - at + 8 :]
    return _MP3Part(start, end, head, _differing(counted, promised, "frames"))


def _xing_frame(like: bytes, frames: int, size_bytes: int) -> bytes:
    """A silent frame with a Xing header: the numbers of frames and bytes after it."""
    plain = int.from_bytes(like, "big") & 0xFFFF0DFF | 1 << 16
    made = [(plain | bitrate << 12).to_bytes(4, "big") for bitrate in range(1, 15)]
    kinds = [(empty, kind) for empty in made if (kind := _MP3Header.parse(empty))]
    # the lowest bit rate whose frames have room for it
    empty, kind = next(pair for pair in kinds if pair[1].size >= pair[1].side_bytes + 56)
    counts = (3, frames, kind.size + size_bytes)
    xing = b"Xing" + b"".join(count.to_bytes(4, "big") for count in counts)
    # bytes 21 to 23 of the encoder's tag are the samples added at the start and the end
    lame = b"LAME".ljust(21, b"\0") + (MP3_DELAY_SAMPLES << 12).to_bytes(3, "big")
    return (empty + bytes(kind.side_bytes) + xing + lame).ljust(kind.size, b"\0")


def _mp3_frames(data: bytes) -> Iterator[tuple[int, _MP3Header]]:
    """The position and header of each frame; other bytes, such as tags, are skipped."""
    at = 0
    if data[:3] == b"ID3" and len(data) > 10:
        at = 10 + functools.reduce(lambda n, byte: n << 7 | byte & 0x7F, data[6:10], 0)
    kind, ended = None, at
    while 0 <= at <= min(len(data) - 4, ended + SCAN_BYTES):
        header = _MP3Header.parse(data[at : at + 4])
        if header and (header.kind == kind or _followed(data, at, header)):
            if at + header.size > len(data):
                return
            kind = header.kind
            yield at, header
            ended = at = at + header.size
        else:
            at = data.find(b"\xff", at + 1)


def _followed(data: bytes, at: int, header: _MP3Header) -> bool:
    """True where a frame of this length is followed by another or by the end of the data.

    Other bytes may look like the header of a frame.
    """
    after = at + header.size
    following = _MP3Header.parse(data[after : after + 4])
    return after == len(data) or (following is not None and following.kind == header.kind)


def _differing(held: int, promised: int, what: str) -> str:
    """The fault of a header with a larger or smaller count than the file holds."""
    words = f"holds {held} {what}, and its header promises {promised}"
    return f"is cut short: it {words}" if held < promised else words


def _corrected(stream: BinaryIO, head: bytes, start: int, end: int) -> BinaryIO:
    return io.BufferedReader(Corrected(stream, head, start, end))
