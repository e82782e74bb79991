"""Files in: the same sound as speechkit reads, whatever their headers promise."""

import io
import os
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import speechkit_runtime as skr
from speechkit_runtime import containers
from speechkit_runtime.cli import run

from speechkit.data import containers as core_containers
from speechkit.data import read_audio

NOISE = np.random.default_rng(0).uniform(-0.3, 0.3, 80000)


def stored(x: np.ndarray = NOISE, rate: int = 16000, form: str = "WAV", **options: Any) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, x, rate, format=form, **options)
    return file.getvalue()


def of_size(size: int) -> bytes:
    """A WAV whose header says that its sound has `size` bytes."""
    data = stored()
    return data[:40] + struct.pack("<I", size) + data[44:]


def without_header() -> bytes:
    """An MP3 that is quiet and then loud, without the frame that counts the others."""
    x = np.concatenate([NOISE, 0.01 * NOISE, np.zeros(64000)])
    data = stored(x, form="MP3", bitrate_mode="VARIABLE", compression_level=0.5)
    return data[data.find(data[:2], 4) :]


def flac(promised: int) -> bytes:
    data = bytearray(stored(form="FLAC"))
    data[21:26] = (data[21] >> 4 << 36 | promised).to_bytes(5, "big")
    return bytes(data)


FILES = {
    "wav": stored,
    "stereo at 44.1 kHz": lambda: stored(NOISE.reshape(-1, 2), 44100),
    "wav of size 0": lambda: of_size(0),
    "wav of unknown size": lambda: of_size(0xFFFFFFFF),
    "flac of unknown length": lambda: flac(0),
    "mp3 without a header": without_header,
    "chained ogg": lambda: stored(form="OGG") + stored(-NOISE, form="OGG"),
}


@pytest.mark.parametrize("case", FILES)
def test_the_sound_is_what_speechkit_reads(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sound"
    path.write_bytes(FILES[case]())
    expected = read_audio(path).numpy()
    assert np.allclose(skr.read_audio(path, 16000), expected, atol=1e-6)
    with path.open("rb") as stream:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(stream.raw)))
        assert np.allclose(skr.read_audio("-", 16000), expected, atol=1e-6)


def test_a_file_cut_short_is_used_with_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    path.write_bytes(stored(form="FLAC")[:-9000])
    with pytest.warns(UserWarning, match="is cut short"):
        found = skr.read_audio(path, 16000)
    assert 60000 < len(found) < len(NOISE)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (stored(rate=1), "is at 1 Hz, expected 4000 to 384000"),
        (stored(rate=400_000), "is at 400000 Hz"),
        (flac(2**36 - 1)[:110], "promises 68719476735 samples, more than its 110 bytes can hold"),
        (stored(NOISE.reshape(-1, 4)), "has 4 channels, expected 1 or 2"),
        (b"", "cannot read"),
        (b"no sound" * 99, "cannot read"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "data",
)
def test_what_no_recording_has_is_one_line(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(data)
    with pytest.raises(skr.RuntimeFailure, match=message) as caught:
        skr.read_audio(tmp_path / "a.wav", 16000)
    assert len(str(caught.value)) < 450


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipes_and_devices_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    for path in (tmp_path / "pipe.wav", Path("/dev/zero")):
        with pytest.raises(skr.RuntimeFailure, match=r"is not a regular file; .* or - and pipe it"):
            skr.read_audio(path, 16000)


def test_a_warning_of_the_command_line_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.flac").write_bytes(stored(form="FLAC")[:-9000])

    class Model:
        def vad(self, path: Path) -> list[tuple[float, float]]:
            return [(0.0, len(skr.read_audio(path, 16000)) / 16000)]

    monkeypatch.setattr("speechkit_runtime.cli.load", lambda path: Model())
    monkeypatch.setattr("warnings.filters", [])
    assert run(["vad", str(tmp_path / "a.flac"), "--model", "m.onnx"]) == 0
    message = capsys.readouterr().err
    assert message.startswith(f"warning: {tmp_path}/a.flac is cut short: ")
    assert message.count("\n") == 1


def test_both_packages_correct_headers_alike() -> None:
    """The runtime may not import speechkit, so it has a copy of one module."""
    own, core = (Path(str(m.__file__)).read_text("utf-8") for m in (containers, core_containers))
    assert own == core.replace("from speechkit.limits", "from speechkit_runtime.limits")
