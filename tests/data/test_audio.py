"""Reading sound: formats, rates, channels, and one line for everything that cannot be used."""

import io
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import torch

from speechkit.data.audio import (
    AudioWarning,
    audio_duration_s,
    channel_count,
)
from speechkit.data.tensors import read_audio, read_blocks
from speechkit.errors import AudioError

FORMATS: dict[str, dict[str, Any]] = {
    "wav": {},
    "flac": {},
    "ogg": {"format": "OGG", "subtype": "VORBIS"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "mp3": {},
    "sph": {"format": "NIST"},
}


def tone(hertz: float = 440.0, rate: int = 16000, seconds: float = 1.0) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)


def write(path: Path, x: np.ndarray, rate: int = 16000, **options: Any) -> Path:
    soundfile.write(path, x, rate, **options)
    return path


def loudest_hertz(x: torch.Tensor, rate: int = 16000) -> float:
    return float(torch.fft.rfft(x).abs().argmax()) * rate / len(x)


@pytest.mark.parametrize("name", FORMATS)
def test_reads_every_format_from_path_and_bytes(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / f"a.{name}", tone(), **FORMATS[name])
    x = read_audio(path)
    assert x.dtype == torch.float32
    assert x.shape == (16000,)
    assert loudest_hertz(x) == 440
    assert x[2000:-2000].abs().max().item() == pytest.approx(0.3, rel=0.05)
    assert torch.equal(x, read_audio(path.read_bytes()))
    assert torch.equal(x, read_audio(str(path)))
    assert audio_duration_s(path) == 1


@pytest.mark.parametrize("rate", [8000, 44100, 96000])
def test_resampling_keeps_pitch_length_and_level(tmp_path: Path, rate: int) -> None:
    x = read_audio(write(tmp_path / "a.wav", tone(1000, rate), rate))
    assert len(x) == 16000
    assert loudest_hertz(x) == 1000
    assert x[1000:-1000].abs().max().item() == pytest.approx(0.3, abs=2e-3)


def test_resampling_removes_what_the_new_rate_cannot_hold() -> None:
    x = read_audio(tone(20000, 96000), sample_rate=96000)
    assert x[1000:-1000].abs().max() < 1e-3


@pytest.mark.parametrize("name", ["wav", "flac", "opus"])
def test_reads_only_the_wanted_part(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).uniform(-0.2, 0.2, 48000)
    path = write(tmp_path / f"a.{name}", noise, **FORMATS[name])
    part = read_audio(path, offset_s=1.5, duration_s=0.5)
    assert torch.equal(part, read_audio(path)[24000:32000])
    assert torch.equal(
        read_audio(noise, sample_rate=16000, offset_s=2.5), read_audio(noise, 16000)[40000:]
    )


def test_a_duration_rounded_up_reads_to_the_end(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", tone(seconds=1.04))
    assert len(read_audio(path, duration_s=1.1)) == 16640


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [16000, 8000, 44100])
@pytest.mark.parametrize("options", [{}, {"subtype": "FLOAT"}, {"format": "FLAC"}])
def test_blocks_joined_are_the_whole(
    tmp_path: Path, options: dict[str, Any], rate: int, channels: int
) -> None:
    noise = np.random.default_rng(0).uniform(-0.2, 0.2, (2 * rate + 123, channels))
    path = write(tmp_path / "a.wav", noise, rate, **options)
    stored = soundfile.read(path, dtype="float32", always_2d=True)[0].mean(axis=1)
    expected = torch.from_numpy(soxr.resample(stored, rate, 16000, quality="HQ"))
    assert torch.equal(read_audio(path), expected)
    for block_s in (0.0137, 0.5, 3.0):
        assert torch.equal(torch.cat(list(read_blocks(path, block_s=block_s))), expected)
        blocks = list(read_blocks(stored, rate, block_s=block_s))
        assert torch.equal(torch.cat(blocks), expected)
        assert len(blocks) == -(-len(stored) // round(block_s * rate))


def test_blocks_of_a_part_are_that_part(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", tone(seconds=3.0))
    blocks = list(read_blocks(path, offset_s=0.7, duration_s=1.1, block_s=0.5))
    assert [len(block) for block in blocks] == [8000, 8000, 1600]
    assert torch.equal(torch.cat(blocks), read_audio(path, offset_s=0.7, duration_s=1.1))


def test_arrays_and_tensors_give_the_same_sound() -> None:
    integers = np.array([0, 16384, -32768, 8192], dtype=np.int16).repeat(200)
    floats = integers / 32768
    with pytest.warns(AudioWarning, match="is clipped: 25.0% of its samples"):
        expected = read_audio(integers, sample_rate=16000)
    assert expected[::200].tolist() == [0, 0.5, -1, 0.25]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AudioWarning)
        for source in (floats, floats.astype(np.float32), torch.from_numpy(floats)):
            assert torch.equal(read_audio(source, sample_rate=16000), expected)


def test_resampled_sound_at_full_scale_keeps_its_peaks() -> None:
    x = np.clip(8 * np.sin(np.arange(8000) * 0.7), -1, 1).astype(np.float32)
    with pytest.warns(AudioWarning, match="is clipped"):
        y = read_audio(x, sample_rate=8000, target_rate=16000)
    # between samples at full scale the sound goes beyond it
    assert 1.05 < y.abs().max() <= 2


def test_two_channels_are_averaged(tmp_path: Path) -> None:
    stereo = np.stack([tone(), np.zeros(16000)], axis=1)
    x = read_audio(write(tmp_path / "a.wav", stereo))
    torch.testing.assert_close(x, torch.from_numpy(tone() / 2).float(), atol=1e-4, rtol=0)
    assert torch.equal(read_audio(stereo, 16000), read_audio(tone() / 2, 16000))


def test_the_source_array_is_left_alone() -> None:
    x = np.linspace(-1.5, 1.5, 1000, dtype=np.float32)
    before = x.copy()
    with pytest.warns(AudioWarning):
        assert read_audio(x, 16000).abs().max() == 1
    assert np.array_equal(x, before)


# bits of 16-bit samples that are read as float32 are often such numbers
SIGNALLING = np.full((9, 2), 0x7FA00000, np.uint32).view(np.float32)
ARRAYS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no rate": (tone(), {}, "does not say its sample rate; pass sample_rate="),
    "rate a": (tone(), {"sample_rate": "a"}, "is at 'a' Hz, expected 4000 to 384000"),
    "rate [8000]": (tone(), {"sample_rate": [8000]}, r"is at \[8000\] Hz, expected 4000"),
    "rate 0": (tone(), {"sample_rate": 0}, "is at 0 Hz, expected 4000 to 384000"),
    "empty": (np.zeros(0), {"sample_rate": 8000}, "holds no sound; give at least one sample"),
    "int32": (np.zeros(9, np.int32), {"sample_rate": 8000}, "is int32; convert it to float32"),
    "bfloat16": (torch.zeros(9).bfloat16(), {"sample_rate": 8000}, "is bfloat16; convert it"),
    "no channel": (np.zeros((9, 0)), {"sample_rate": 8000}, "has 0 channels, expected 1 to 32"),
    "3-D": (np.zeros((1, 1, 9)), {"sample_rate": 8000}, r"neither \[N\] nor \[N, channels\]"),
    "channels first": (np.zeros((2, 900)), {"sample_rate": 8000}, "900 channels.* x.T where time"),
    "NaN": (np.full(9, np.nan), {"sample_rate": 8000}, "contains NaN or infinity"),
    "infinity": (np.full(9, np.inf), {"sample_rate": 8000}, "contains NaN or infinity"),
    "integers as floats": (
        tone() * 32768,
        {"sample_rate": 8000},
        r"reaches 98.*expected \[-1, 1\]",
    ),
    "a list": ([0.0, 0.1], {}, "cannot read list; give a path, bytes, an open binary"),
    "no bytes": (b"", {}, "is an empty file"),
    "not sound": (b"hello world" * 99, {}, "cannot decode the sound in 1089 bytes: .*; give wav"),
    "late": (tone(), {"sample_rate": 16000, "offset_s": 2.0}, "ends at 1 s, before 2 s"),
    "long": (tone(), {"sample_rate": 16000, "duration_s": 2.0}, "ends at 1 s, before 2 s"),
    "offset NaN": (tone(), {"sample_rate": 16000, "offset_s": np.nan}, r"give offset_s >= 0"),
    "offset inf": (tone(), {"sample_rate": 16000, "offset_s": np.inf}, r"give offset_s >= 0"),
    "part NaN": (tone(), {"sample_rate": 16000, "duration_s": np.nan}, r"give offset_s >= 0"),
    "part inf": (tone(), {"sample_rate": 16000, "duration_s": np.inf}, r"give offset_s >= 0"),
    "too large for float32": (np.full(9, 1e300), {"sample_rate": 8000}, "contains NaN or infinity"),
    "signalling NaN": (SIGNALLING, {"sample_rate": 8000}, "contains NaN or infinity"),
    "opposite infinities": (
        np.array([[np.inf, -np.inf]], np.float32),
        {"sample_rate": 8000},
        "contains NaN or infinity",
    ),
    "channels too large to add": (
        np.full((9, 2), 3e38, np.float32),
        {"sample_rate": 8000},
        "contains NaN or infinity",
    ),
    "no part": (tone(), {"sample_rate": 16000, "duration_s": 0.0}, r"give offset_s >= 0 and dur"),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_bad_input_is_refused_in_one_line(case: str) -> None:
    source, options, message = ARRAYS[case]
    with pytest.raises(AudioError, match=message) as caught:
        read_audio(source, **options)
    assert "\n" not in str(caught.value)


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"cannot open .*gone.wav: no such file or directory"):
        read_audio(tmp_path / "gone.wav")
    with pytest.raises(AudioError, match="is a directory"):
        read_audio(tmp_path)
    for name in ("empty.wav", "empty.raw"):
        (tmp_path / name).touch()
        with pytest.raises(AudioError, match=f"{name} is an empty file"):
            read_audio(tmp_path / name)
    (tmp_path / "a.raw").write_bytes(bytes(100))
    with pytest.raises(AudioError, match=r"cannot decode .*a.raw"):
        read_audio(tmp_path / "a.raw")
    silent = write(tmp_path / "no_samples.wav", np.zeros(0))
    with pytest.raises(AudioError, match="holds no sound"):
        read_audio(silent)
    with pytest.raises(AudioError, match="is at 16000 Hz, not 8000; omit sample_rate="):
        read_audio(write(tmp_path / "a.wav", tone()), sample_rate=8000)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_truncated_file_is_used_with_a_warning(tmp_path: Path, name: str, share: float) -> None:
    noise = np.random.default_rng(0).uniform(-0.2, 0.2, 16000 * 5)
    path = write(tmp_path / f"a.{name}", noise, **FORMATS[name])
    data, whole = path.read_bytes(), read_audio(path)
    cut = tmp_path / f"cut.{name}"
    cut.write_bytes(data[: int(len(data) * share)])
    with pytest.warns(AudioWarning, match=r"cut.\w+ is cut short: .*; copy the file again"):
        x = read_audio(cut)
    assert share * 5 - 1.3 < len(x) / 16000 < share * 5 + 0.3
    # the samples before the cut are the file's own; the last ones of a lossy frame may not be
    same = len(x) - 8000
    assert torch.equal(x[:same], whole[:same])
    with pytest.warns(AudioWarning, match="is cut short"):
        blocks = torch.cat(list(read_blocks(cut, block_s=0.5)))
    # soundfile seeks after every read, which for MP3 is exact in time but not in every bit
    torch.testing.assert_close(blocks, x, atol=2e-2 if name == "mp3" else 0, rtol=0)


def test_blocks_end_at_a_sample_that_is_no_number(tmp_path: Path) -> None:
    x = tone(seconds=2.0)
    x[20000] = np.nan
    assert_blocks_end_like_the_whole(write(tmp_path / "a.wav", x, subtype="FLOAT"))


def assert_blocks_end_like_the_whole(path: Path) -> None:
    with pytest.raises(AudioError) as whole:
        read_audio(path)
    blocks = read_blocks(path, block_s=0.5)
    assert len(next(blocks)) == 8000
    with pytest.raises(AudioError) as caught:
        list(blocks)
    assert str(caught.value) == str(whole.value)


def with_size(data: bytes, size: int) -> bytes:
    """A WAV whose header promises `size` bytes of sound."""
    place = data.find(b"data") + 4
    return data[:place] + size.to_bytes(4, "little") + data[place + 4 :]


def promising(data: bytes, samples: int) -> bytes:
    """A FLAC whose header promises that many samples."""
    kept = int.from_bytes(data[21:26], "big") >> 36
    return data[:21] + (kept << 36 | samples).to_bytes(5, "big") + data[26:]


FRAME_OF_192 = bytes.fromhex("fff8190800ba")
"""A header with a right checksum."""


def stored(x: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, x, 16000, **options)
    return file.getvalue()


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_wav_from_a_pipe_has_no_length_and_is_read_whole(size: int, tmp_path: Path) -> None:
    data = stored(tone(), format="WAV")
    path = tmp_path / "piped.wav"
    path.write_bytes(with_size(data, size))
    assert torch.equal(read_audio(path), read_audio(data))
    assert audio_duration_s(path) == 1


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
def test_a_flac_from_a_pipe_has_no_length_and_is_read_whole(subtype: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-0.2, 0.2, 50001)
    data = stored(noise, format="FLAC", subtype=subtype)
    path = tmp_path / "piped.flac"
    path.write_bytes(promising(data, 0))
    assert torch.equal(read_audio(path), read_audio(data))
    assert audio_duration_s(path) == 50001 / 16000
    with pytest.warns(AudioWarning, match="its header promises 68719476735"):
        assert torch.equal(read_audio(promising(data, 2**36 - 1)), read_audio(data))


@pytest.mark.parametrize("level", [0.0, 0.5, 0.9])
def test_an_mp3_without_a_length_is_read_whole(level: float, tmp_path: Path) -> None:
    # loud at first and then quiet: its first frames tell nothing of the others' size
    x = np.concatenate([tone(seconds=4), 0.01 * tone(seconds=8), np.zeros(64000)])
    data = stored(x, format="MP3", bitrate_mode="VARIABLE", compression_level=level)
    assert data.find(b"Xing") < 64
    path = tmp_path / "a.mp3"
    path.write_bytes(data[data.find(data[:2], 4) :])
    # only the header says how much of the last frame, 36 ms at 16 kHz, is padding
    assert audio_duration_s(path) == pytest.approx(16, abs=0.04)
    y = read_audio(path).numpy()
    assert len(y) == round(audio_duration_s(path) * 16000)
    # what the encoder puts before the sound is gone
    lags = range(-40, 41)
    likeness = [float(x[16000:20000] @ y[16000 + lag : 20000 + lag]) for lag in lags]
    assert abs(lags[int(np.argmax(likeness))]) <= 1


@pytest.mark.parametrize("name", ["ogg", "opus"])
def test_all_parts_of_a_chained_ogg_are_read(name: str, tmp_path: Path) -> None:
    first = stored(tone(seconds=2), **FORMATS[name])
    second = stored(tone(880, seconds=1), **FORMATS[name])
    path = tmp_path / f"chain.{name}"
    path.write_bytes(first + second)
    expected = torch.cat([read_audio(first), read_audio(second)])
    assert torch.equal(read_audio(path), expected)
    assert audio_duration_s(path) == 3
    assert torch.equal(read_audio(path, offset_s=1.5, duration_s=1.0), expected[24000:40000])
    assert torch.equal(torch.cat(list(read_blocks(path, block_s=0.3))), expected)


def test_joined_mp3s_are_read_as_each_of_them(tmp_path: Path) -> None:
    first, second = (stored(tone(hertz, seconds=1.5), format="MP3") for hertz in (440, 880))
    path = tmp_path / "joined.mp3"
    path.write_bytes(first + second)
    expected = torch.cat([read_audio(first), read_audio(second)])
    torch.testing.assert_close(read_audio(path), expected, atol=1e-6, rtol=0)
    assert audio_duration_s(path) == 3
    # the second file is cut short within its first frames
    path.write_bytes(first + second[:400])
    with pytest.warns(AudioWarning, match=r"joined.mp3 .*header promises .*; copy the file again"):
        assert abs(len(read_audio(path)) - 24000) < 2000


def test_a_header_that_promises_too_little_does_not_make_a_file_cut_short() -> None:
    data = stored(tone(), format="FLAC")
    with pytest.warns(AudioWarning, match="bytes holds 16000 samples, and its header promises 99;"):
        assert len(read_audio(promising(data, 99))) == 16000


def test_an_rf64_from_a_pipe_has_no_length_and_is_read_whole() -> None:
    data = bytearray(stored(tone(), format="RF64"))
    sizes = data.find(b"ds64") + 8
    data[sizes : sizes + 24] = bytes(24)
    assert data[data.find(b"data") + 4 :][:4] == b"\xff" * 4
    assert torch.equal(read_audio(bytes(data)), read_audio(stored(tone(), format="WAV")))


def test_a_chain_of_too_many_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    one = stored(tone(seconds=0.1), **FORMATS["opus"])
    monkeypatch.setattr("speechkit.data.recording.MAX_CHAINED", 2)
    assert len(read_audio(one * 2)) == 3200
    with pytest.raises(AudioError, match="joins more than 2 channels of 3 recordings"):
        read_audio(one * 3)


def test_what_looks_like_a_flac_frame_of_192_samples_is_passed_over() -> None:
    data = stored(tone(), format="FLAC")
    assert torch.equal(read_audio(data + 3 * FRAME_OF_192), read_audio(data))


def test_a_flac_frame_that_contains_a_header_is_read_whole() -> None:
    # white noise is stored sample by sample, so its bytes are those of the file
    noise = np.random.default_rng(0).integers(-(2**15), 2**15, 5000).astype(np.int16)
    header = np.frombuffer(FRAME_OF_192, ">i2")
    noise[4500 : 4500 + len(header)] = header
    data = stored(noise, format="FLAC")
    assert FRAME_OF_192 in data
    assert read_audio(data).shape == (5000,)


def test_promises_take_no_memory() -> None:
    with pytest.raises(AudioError, match="cannot hold the 68719476735 samples"):
        read_audio(promising(stored(tone(), format="FLAC"), 2**36 - 1)[:110])


@pytest.mark.parametrize("rate", [1, 3999, 384001])
def test_rates_that_no_recording_has_are_refused(rate: int, tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", tone(), rate)
    for read in (read_audio, audio_duration_s):
        with pytest.raises(AudioError, match=f"is at {rate} Hz, expected 4000 to 384000"):
            read(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipes_and_devices_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    for path in (tmp_path / "pipe.wav", Path("/dev/zero")):
        with pytest.raises(AudioError, match="is not a regular file"):
            read_audio(path)


def test_one_channel_can_be_read(tmp_path: Path) -> None:
    sound = np.stack([tone(440), tone(880), tone(1320)], axis=1)
    path = write(tmp_path / "a.wav", sound)
    assert channel_count(path) == 3
    for channel, hertz in (("left", 440), ("right", 880), (3, 1320)):
        assert loudest_hertz(read_audio(path, channel=channel)) == hertz
        assert loudest_hertz(read_audio(sound, 16000, channel=channel)) == hertz
    torch.testing.assert_close(
        read_audio(path), torch.from_numpy(sound.mean(axis=1)).float(), atol=1e-4, rtol=0
    )
    for channel in (0, 4, "middle"):
        with pytest.raises(AudioError, match=r"has 3 channels, not channel .* from 1 to 3"):
            read_audio(path, channel=channel)


def test_channels_that_cancel_are_warned_of() -> None:
    opposite = np.stack([tone(), -tone()], axis=1)
    with pytest.warns(AudioWarning, match="cancel each other"):
        read_audio(opposite, 16000)
    read_audio(opposite, 16000, channel="left")
    read_audio(np.stack([tone(), np.zeros(16000)], axis=1), 16000)


def test_a_clipped_recording_is_used_with_a_warning(tmp_path: Path) -> None:
    path = write(tmp_path / "loud.wav", np.clip(tone() * 10, -1, 1))
    with pytest.warns(AudioWarning, match=r"loud.wav is clipped: \d\d.\d% of its samples") as whole:
        assert len(read_audio(path)) == 16000
    with pytest.warns(AudioWarning) as blocks:
        assert len(list(read_blocks(path, block_s=0.3))) == 4
    assert [str(w.message) for w in blocks] == [str(w.message) for w in whole]
