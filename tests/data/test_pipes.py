"""Sound that arrives through a pipe: the same samples as from a file, as soon as they are there."""

import io
import os
import struct
import threading
from typing import Any, BinaryIO

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechkit.data import AudioWarning, RawFormat, read_audio, read_blocks
from speechkit.errors import AudioError

NOISE = np.random.default_rng(0).uniform(-0.4, 0.4, (4001, 2))


class Pieces(io.RawIOBase):
    """Bytes that arrive in pieces of the given sizes, again and again, and cannot be sought."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self.data, self.sizes, self.turn = data, sizes, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = min(self.sizes[self.turn % len(self.sizes)], len(buffer))
        self.turn += 1
        piece, self.data = self.data[:size], self.data[size:]
        buffer[: len(piece)] = piece
        return len(piece)


def pipe(data: bytes, *sizes: int) -> BinaryIO:
    return io.BufferedReader(Pieces(data, list(sizes or (8192,))))


def wav(x: np.ndarray = NOISE, subtype: str = "PCM_16", rate: int = 16000, **form: Any) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, x, rate, subtype=subtype, **({"format": "WAV"} | form))
    return file.getvalue()


def of_size(data: bytes, size: int) -> bytes:
    """A WAV whose header says that its sound has `size` bytes."""
    at = data.index(b"data") + 4
    return (
        data[:4] + struct.pack("<I", size) + data[8:at] + struct.pack("<I", size) + data[at + 4 :]
    )


RAW = (NOISE * 32768).astype("<i2").tobytes()
FLOATS = NOISE.astype("<f4").tobytes()


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=6),
    case=st.sampled_from(["wav", "f32le", "s16le", "odd header"]),
    rate=st.sampled_from([8000, 16000, 44100]),
    block_s=st.sampled_from([float("inf"), 0.01, 0.1]),
)
def test_how_the_bytes_arrive_changes_nothing(
    sizes: list[int], case: str, rate: int, block_s: float
) -> None:
    raw = RawFormat(case, rate, 2) if case in ("s16le", "f32le") else None  # type: ignore[arg-type]
    data = {"s16le": RAW, "f32le": FLOATS}.get(case, wav(subtype="PCM_24", rate=rate))
    if case == "odd header":
        data = data[:12] + b"LIST" + struct.pack("<I", 5) + b"other\0" + data[12:]
    subtype = {"s16le": "PCM_16", "f32le": "FLOAT"}.get(case, "PCM_24")
    stored = soundfile.read(io.BytesIO(data), **_options(raw, subtype))[0]
    expected = read_audio(stored, rate)
    found = torch.cat(list(read_blocks(pipe(data, *sizes), block_s=block_s, raw=raw)))
    assert torch.equal(found, expected)


def _options(raw: RawFormat | None, subtype: str) -> dict[str, Any]:
    bare = {"format": "RAW", "channels": 2, "subtype": subtype, "endian": "LITTLE"}
    return {"dtype": "float32"} | (bare | {"samplerate": raw.rate} if raw else {})


@pytest.mark.parametrize("form", ["WAV", "WAVEX", "RF64"])
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("size", [None, 0, 0xFFFFFFFF, 0x7FFFF000])
def test_a_wav_in_a_pipe_is_read_as_a_file_is(form: str, subtype: str, size: int | None) -> None:
    data = wav(subtype=subtype, rate=8000, format=form)
    piped = data if size is None or form == "RF64" else of_size(data, size)
    assert torch.equal(read_audio(pipe(piped)), read_audio(data))
    part = read_audio(pipe(piped), offset_s=0.1, duration_s=0.2, channel="right")
    assert torch.equal(part, read_audio(data, offset_s=0.1, duration_s=0.2, channel="right"))


@pytest.mark.parametrize("subtype", ["ULAW", "ALAW"])
def test_telephone_sound_is_read(subtype: str) -> None:
    data = wav(subtype=subtype, rate=8000)
    assert torch.equal(read_audio(pipe(data)), read_audio(data))


def test_what_follows_the_sound_is_not_sound() -> None:
    data = wav() + b"LIST" + struct.pack("<I", 400) + b"x" * 400
    assert torch.equal(read_audio(pipe(data)), read_audio(wav()))


def test_a_stream_that_can_seek_is_a_file_of_any_format() -> None:
    file = io.BytesIO(wav(subtype="PCM_16", format="FLAC"))
    assert torch.equal(read_audio(file), read_audio(file.getvalue()))
    assert not file.closed


def test_bare_samples_in_files_and_bytes_are_read() -> None:
    expected = read_audio((NOISE * 32768).astype(np.int16), 16000)
    assert torch.equal(read_audio(RAW, raw=RawFormat("s16le", channels=2)), expected)


def test_blocks_come_as_their_sound_arrives() -> None:
    """The writer waits for each block to be read before it writes the next."""
    reading, writing = os.pipe()
    taken, given_s, block = threading.Semaphore(0), 0.1, 1600
    samples = (NOISE[:, 0] * 32768).astype("<i2")[: 2 * block]
    header = of_size(wav(NOISE[:0, 0]), 0)
    ended: list[bool] = []

    def write() -> None:
        with open(writing, "wb", buffering=0) as pipe_in:
            pipe_in.write(header)
            for start in (0, block):
                pipe_in.write(samples[start : start + block].tobytes())
                ended.append(taken.acquire(timeout=10))

    thread = threading.Thread(target=write)
    thread.start()
    blocks = []
    with open(reading, "rb") as pipe_out:
        for part in read_blocks(pipe_out, block_s=given_s):
            blocks.append(part)
            taken.release()
    thread.join()
    assert ended == [True, True]
    assert [len(part) for part in blocks] == [block, block]
    assert torch.equal(torch.cat(blocks), read_audio(samples, 16000))


class Endless(io.RawIOBase):
    """A WAV that never ends."""

    def __init__(self) -> None:
        self.head, self.given = of_size(wav(NOISE[:0, 0]), 0xFFFFFFFF), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = (self.head or bytes(65536))[: len(buffer)]
        self.head = self.head[len(piece) :]
        buffer[: len(piece)] = piece
        self.given += len(piece)
        return len(piece)


def test_no_more_is_taken_than_is_asked_for() -> None:
    stream = Endless()
    assert len(read_audio(stream, offset_s=1.0, duration_s=0.5)) == 8000  # type: ignore[arg-type]
    assert stream.given < 1.5 * 16000 * 2 + 3 * 65536


BAD: dict[str, tuple[bytes, RawFormat | None, str]] = {
    "nothing": (b"", None, "is empty; pipe sound into it"),
    "no bare samples": (b"", RawFormat("s16le"), "holds no sound; give at least one sample"),
    "text": (
        b"hello, this is not sound",
        None,
        "begins with no WAV header; pipe WAV .* --raw s16le",
    ),
    "flac": (wav(format="FLAC"), None, "begins with no WAV header"),
    "4 bytes": (b"RIFF", None, "ends before its sound|ends within its header"),
    "half a header": (wav()[:30], None, "ends within its header"),
    "header only": (of_size(wav(NOISE[:0]), 0), None, "holds no sound"),
    "no format": (b"RIFF\0\0\0\0WAVEdata\0\0\0\0" + bytes(99), None, "does not say its format"),
    "no sound chunk": (
        b"RIFF\0\0\0\0WAVE" + b"LIST\xff\xff\xff\x00" + bytes(2**21),
        None,
        "has no sound in its first 1048576 bytes",
    ),
    "adpcm": (wav(NOISE[:, 0], subtype="MS_ADPCM"), None, "is a WAV in encoding 2 of 4 bits"),
    "1 Hz": (wav(rate=1), None, "is at 1 Hz, expected 4000 to 384000"),
    "part of a frame": (RAW[:-1], RawFormat("s16le", channels=2), "ends within a frame of 4 bytes"),
    "one byte": (b"x", RawFormat("s16le"), "ends within a frame of 2 bytes"),
    "NaN": (
        np.array([0.1, np.nan], "<f4").tobytes(),
        RawFormat("f32le"),
        "contains NaN or infinity; repair it",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_read_is_one_line(case: str) -> None:
    data, raw, message = BAD[case]
    for sizes in ((1,), (8192,)):
        with pytest.raises(AudioError, match=message) as caught:
            for _ in read_blocks(pipe(data, *sizes), block_s=0.05, raw=raw):
                pass
        assert len(str(caught.value)) < 450


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"encoding": "mp3"}, "raw samples in 'mp3'; give s16le or f32le"),
        ({"encoding": "s16le", "rate": 1}, "raw sound is at 1 Hz"),
        ({"encoding": "s16le", "channels": 0}, "raw sound has 0 channels"),
    ],
)
def test_formats_that_no_sound_has_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(AudioError, match=message):
        RawFormat(**given)


def test_text_streams_are_refused() -> None:
    with pytest.raises(AudioError, match="cannot read StringIO; give a path, bytes, an open"):
        read_audio(io.StringIO("sound"))  # type: ignore[arg-type]


def test_a_part_beyond_the_end_is_refused() -> None:
    for offset_s, duration_s in ((1.0, None), (0.1, 1.0)):
        with pytest.raises(AudioError, match=r"ends at 0\.250063 s, before"):
            read_audio(pipe(wav()), offset_s=offset_s, duration_s=duration_s)


@pytest.mark.parametrize("cut", [1, 500, 9001])
def test_a_wav_cut_short_is_used_with_a_warning(cut: int) -> None:
    whole = read_audio(wav())
    with pytest.warns(AudioWarning, match="is cut short: .* bytes are missing"):
        found = read_audio(pipe(wav()[:-cut]))
    assert torch.equal(found, whole[: len(found)])
    assert len(whole) - len(found) == -(-cut // 4)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_named_pipe_that_is_open_is_read(tmp_path: Any) -> None:
    os.mkfifo(tmp_path / "sound")
    thread = threading.Thread(target=lambda: (tmp_path / "sound").write_bytes(wav()))
    thread.start()
    with open(tmp_path / "sound", "rb") as stream:
        assert torch.equal(read_audio(stream), read_audio(wav()))
    thread.join()
