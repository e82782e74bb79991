"""m4a, webm and other files that libsndfile does not read, by PyAV or a program ffmpeg."""

import contextlib
import io
import shutil
import struct
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from speechkit.data import (
    AudioWarning,
    audio_duration_s,
    channel_count,
    find_audio,
    read_audio,
    read_blocks,
)
from speechkit.errors import AudioError, MissingExtraError

av: Any = pytest.importorskip("av", reason="pip install 'speechkit-core[av]'")

KINDS = {
    "m4a": ("ipod", "aac"),
    "mp4": ("mp4", "aac"),
    "webm": ("webm", "libopus"),
    "mka": ("matroska", "aac"),
    "aac": ("adts", "aac"),
    "wma": ("asf", "wmav2"),
}
RATE = 48000


def sound(seconds: float = 2.0, channels: int = 2) -> np.ndarray:
    """Tones that begin at once, with a click in the middle of each half second, `[channels, N]`."""
    t = np.arange(round(seconds * RATE)) / RATE
    x = 0.3 * np.sin(2 * np.pi * 440 * t) * (t % 0.5 > 0.25)
    return np.stack([x / (1 + channel) for channel in range(channels)]).astype(np.float32)


def encoded(kind: str, x: np.ndarray, **options: str) -> bytes:
    form, codec = KINDS[kind]
    file = io.BytesIO()
    layout = "mono" if len(x) == 1 else "stereo"
    with av.open(file, "w", format=form, options=options) as container:
        track = container.add_stream(codec, rate=RATE, layout=layout)
        track.bit_rate = 128000
        frame = av.AudioFrame.from_ndarray(x, format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
        for packet in [*track.encode(frame), *track.encode(None)]:
            container.mux(packet)
    return file.getvalue()


@pytest.fixture(params=["PyAV", "ffmpeg"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "ffmpeg":
        if shutil.which("ffmpeg") is None:
            pytest.skip("no program ffmpeg")
        monkeypatch.setitem(sys.modules, "av", None)
    return str(request.param)


@pytest.mark.parametrize("kind", KINDS)
def test_its_sound_lies_where_the_wav_has_it(kind: str, decoder: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind}"
    path.write_bytes(encoded(kind, sound()))
    expected = read_audio(sound().T, RATE)
    found = read_audio(path)
    # aac without a container and wma do not say what the encoder put in front of the sound
    slack = 0.1 if kind in ("aac", "wma") else 0.03
    assert len(found) / 16000 == pytest.approx(2, abs=slack)
    assert audio_duration_s(path) == pytest.approx(len(found) / 16000, abs=1e-4)
    assert channel_count(path) == 2
    lag = torch.fft.irfft(
        torch.fft.rfft(found.square(), 65536) * torch.fft.rfft(expected.square(), 65536).conj()
    ).argmax()
    assert min(lag, 65536 - lag) <= slack * 16000
    if kind in ("m4a", "mp4", "webm"):
        size = min(len(found), len(expected))
        error = (found[:size] - expected[:size]).square().mean() / expected.square().mean()
        assert error < 0.01
    assert torch.equal(read_audio(path.read_bytes()), found)


def test_parts_blocks_and_channels_are_those_of_the_whole(decoder: str) -> None:
    data = encoded("m4a", sound())
    whole, right = read_audio(data, target_rate=RATE), read_audio(data, target_rate=RATE, channel=2)
    for block_s in (0.013, 0.5):
        blocks = list(read_blocks(data, target_rate=RATE, block_s=block_s))
        assert torch.equal(torch.cat(blocks), whole)
        assert len(blocks[0]) == round(block_s * RATE)
    part = read_audio(data, target_rate=RATE, offset_s=0.7, duration_s=0.9, channel="right")
    assert torch.equal(part, right[round(0.7 * RATE) : round(1.6 * RATE)])
    assert right.square().mean() < whole.square().mean()
    with pytest.raises(AudioError, match=r"ends at 2\.?\d* s, before 5 s"):
        read_audio(data, offset_s=4.5, duration_s=0.5)


def test_a_file_cut_short_is_used_with_a_warning(tmp_path: Path, decoder: str) -> None:
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, (1, 4 * RATE)).astype(np.float32)
    path = tmp_path / "a.m4a"
    path.write_bytes(encoded("m4a", noise))
    # its index in front, as in those for the web; PyAV writes that to files only
    with av.open(str(path)) as given:
        options = {"movflags": "faststart"}
        with av.open(str(tmp_path / "web.m4a"), "w", options=options) as made:
            track = made.add_stream_from_template(given.streams.audio[0])
            for packet in given.demux(given.streams.audio[0]):
                if packet.dts is not None:
                    packet.stream = track
                    made.mux(packet)
    data = (tmp_path / "web.m4a").read_bytes()
    whole = read_audio(data)
    with pytest.warns(AudioWarning, match=r"is (cut short|damaged)|cannot be decoded beyond"):
        found = read_audio(data[: len(data) * 6 // 10])
    assert len(found) / 16000 == pytest.approx(2.4, abs=0.2)
    assert torch.equal(found[:32000], whole[:32000])


def test_what_is_broken_is_refused_in_one_line(decoder: str) -> None:
    data = encoded("m4a", sound(0.3))
    chance = np.random.default_rng(0)
    broken = [
        data[:16],
        data[:400],
        data[: len(data) // 2],
        b"\x1aE\xdf\xa3" + bytes(99),
        b"#!AMR\n",
        b"\xff\xf1" + bytes(99),
        data[:32] + chance.bytes(len(data)),
    ]
    for given in broken:
        with pytest.raises(AudioError, match=f"the sound in {len(given)} bytes") as caught:
            read_audio(given)
        assert len(str(caught.value)) < 450


@pytest.mark.filterwarnings("ignore::speechkit.data.AudioWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_mutated_files_give_sound_or_one_line(kind: str) -> None:
    data, chance = encoded(kind, sound(0.3)), np.random.default_rng(0)
    for _ in range(40):
        mutated = bytearray(data)
        for place in chance.integers(0, len(data), 4):
            mutated[place] = chance.integers(256)
        with contextlib.suppress(AudioError):
            assert len(read_audio(bytes(mutated)))


def test_a_film_without_sound_is_refused() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        track = container.add_stream("mpeg4", rate=10)
        track.width = track.height = 32
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        for packet in [*track.encode(frame), *track.encode(None)]:
            container.mux(packet)
    with pytest.raises(AudioError, match="has no sound track"):
        read_audio(file.getvalue())


def test_without_a_decoder_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    path = tmp_path / "a.m4a"
    path.write_bytes(encoded("m4a", sound(0.1)))
    with pytest.raises(MissingExtraError, match=r"for .*a\.m4a, .*'speechkit-core\[av\]'"):
        read_audio(path)


def test_every_kind_is_found_in_folders(tmp_path: Path) -> None:
    for kind in KINDS:
        (tmp_path / f"a.{kind}").touch()
    assert len(find_audio([tmp_path])) == len(KINDS)


@pytest.mark.parametrize("copies", [1, 14])
def test_tables_that_list_more_samples_than_there_are_bytes_are_refused(copies: int) -> None:
    """An m4a of some 20 kB took 1.2 GB, or 13 s, before anything was decoded."""
    data = bytearray(encoded("m4a", sound()))
    at = data.rfind(b"stsz")
    data[at + 8 : at + 16] = struct.pack(">II", 1, 2**25)
    moov, trak = data.rfind(b"moov") - 4, data.rfind(b"trak") - 4
    sizes = [int.from_bytes(data[place : place + 4], "big") for place in (moov, trak)]
    box = data[trak : trak + sizes[1]]
    data[moov : moov + 4] = struct.pack(">I", sizes[0] + (copies - 1) * len(box))
    data[trak:trak] = bytes(box) * (copies - 1)
    with pytest.raises(AudioError, match="lists more samples than it has bytes"):
        read_audio(bytes(data))
