"""A microphone that falls behind, stalls, is busy or is unplugged; a file or a pipe as if live."""

import io
import itertools
import logging
import os
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import speechkit as sk
from speechkit.data import RawFormat, read_audio
from speechkit.errors import AudioError, StreamError
from speechkit.events import Gap
from speechkit.models import Net
from speechkit.streaming import sources
from speechkit.streaming.sources import FileSource, Microphone

RATE, BLOCK = 16000, 320
NOISE = np.random.default_rng(0).uniform(-0.3, 0.3, (16000, 2))
Begin = Callable[[Callable[..., None], Any], None]


class PortAudioError(Exception):
    """What sounddevice raises."""


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Callable[[Begin], Microphone]:
    """`plug(begin)` is a microphone on whose start `begin` gets its callback and its stream."""

    def made(begin: Begin) -> Microphone:
        class InputStream:
            active = True

            def __init__(self, *, callback: Callable[..., None], **_: Any) -> None:
                self.callback = callback

            def start(self) -> None:
                begin(self.callback, self)

            def stop(self) -> None: ...

            def close(self) -> None: ...

        fake = types.SimpleNamespace(
            InputStream=InputStream,
            PortAudioError=PortAudioError,
            check_input_settings=lambda **_: None,
        )
        monkeypatch.setitem(sys.modules, "sounddevice", fake)
        monkeypatch.setattr(sources, "POLL_S", 0.01)
        return Microphone(RATE)

    return made


def call(
    back: Callable[..., None], value: float, begins_s: float = 0.0, overflow: bool = False
) -> None:
    """One block of the sound card's thread."""
    at = types.SimpleNamespace(inputBufferAdcTime=begins_s)
    status = types.SimpleNamespace(input_overflow=overflow)
    back(np.full((BLOCK, 1), value, np.float32), BLOCK, at, status)


def blocks_of(
    microphone: Microphone, during: Callable[[], None] = lambda: None
) -> list[tuple[int, int]]:
    """Of each block until the device stops, how much was lost before it and its length; `during`
    is called after the first."""
    found: list[tuple[int, int]] = []

    def take() -> None:
        for samples in microphone:
            found.append((microphone.lost_samples, len(samples)))
            if len(found) == 1:
                during()

    given_s = r"the default input device stopped after \d+\.\d s; check that it is plugged in"
    with microphone, pytest.raises(AudioError, match=given_s):
        take()
    return found


@pytest.mark.parametrize(
    ("times_s", "overflow", "lost"),
    [
        ([1.0, 1.02, 1.04], [0, 0, 0], [0, 0, 0]),
        # the clock gives the duration that an overflow lost
        ([1.0, 1.02, 5.34], [0, 0, 1], [0, 0, round(4.3 * RATE)]),
        # a block where it does not
        ([0.0, 0.0, 0.0], [0, 1, 0], [0, BLOCK, 0]),
        ([1.0, 1.02, 1.04], [0, 1, 0], [0, BLOCK, 0]),
        # a driver that stood still and does not say so
        ([1.0, 1.02, 3.04], [0, 0, 0], [0, 0, 2 * RATE]),
        # a clock that is not quite regular
        ([1.0, 1.05, 1.01], [0, 0, 0], [0, 0, 0]),
    ],
)
def test_a_gap_has_the_duration_on_the_clock(
    plug: Callable[[Begin], Microphone],
    times_s: list[float],
    overflow: list[int],
    lost: list[int],
) -> None:
    def begin(back: Callable[..., None], stream: Any) -> None:
        for at_s, over in zip(times_s, overflow, strict=True):
            call(back, 0.1, at_s, bool(over))
        stream.active = False

    microphone = plug(begin)
    assert blocks_of(microphone) == [(gap, BLOCK) for gap in lost]
    assert microphone.dropped_samples == sum(lost)


def test_what_finds_no_room_is_lost_where_it_was(plug: Callable[[Begin], Microphone]) -> None:
    room = round(sources.WAITING_S / sources.BLOCK_S)
    callback: list[Callable[..., None]] = []

    def begin(back: Callable[..., None], stream: Any) -> None:
        callback.append(back)
        for _ in range(room + 7):
            call(back, 0.1)
        stream.active = False

    def during() -> None:
        call(callback[0], 0.2)  # there is room for one more
        call(callback[0], 0.2)

    found = blocks_of(plug(begin), during)
    assert found == [(0, BLOCK)] * room + [(7 * BLOCK, BLOCK), (BLOCK, 0)]


def test_a_microphone_without_sound_is_reported_once_and_may_come_back(
    plug: Callable[[Begin], Microphone],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(sources, "QUIET_S", 0.05)
    threads = []

    def begin(back: Callable[..., None], stream: Any) -> None:
        def later() -> None:
            call(back, 0.1)
            stream.active = False

        threads.append(threading.Timer(0.3, later))
        threads[0].start()

    with caplog.at_level(logging.WARNING):
        assert blocks_of(plug(begin)) == [(0, BLOCK)]
    (record,) = caplog.records
    assert record.getMessage() == (
        "the default input device has given no sound for 0.05 s; check that it is plugged in and "
        "switched on, or end with Ctrl-C"
    )


@pytest.mark.parametrize("window_s", [None, 0.4])
def test_a_gap_is_silence_and_comes_first(nets: dict[str, Net], window_s: float | None) -> None:
    model = sk.build(nets["frame"]).eval().with_(postprocess={"onset": 0, "offset": 0})
    x = np.random.default_rng(0).uniform(-1, 1, 5000).astype(np.float32)
    one, other = (sk.stream(model, window_s=window_s) for _ in range(2))
    events = one.feed(x) + one.skip(20_000) + one.feed(x) + one.finish()
    whole = np.concatenate([x, np.zeros(20_000, np.float32), x])
    expected = other.feed(whole) + other.finish()
    assert [event for event in events if not isinstance(event, Gap)] == expected
    (gap,) = (event for event in events if isinstance(event, Gap))
    assert gap == Gap(duration_s=1.25, at_s=5000 / RATE, decided_s=5000 / RATE)
    decided = [event.decided_s for event in events]
    assert all(a <= b for a, b in itertools.pairwise(decided))


def test_no_gap_is_no_event(nets: dict[str, Net]) -> None:
    stream = sk.stream(sk.build(nets["frame"]).eval())
    assert stream.skip(0) == []
    with pytest.raises(StreamError, match="samples of a gap=-1: give a whole number from 0"):
        stream.skip(-1)


def test_its_blocks_joined_are_the_file(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", NOISE, 44100)
    with FileSource(tmp_path / "a.wav", 8000, channel="right") as source:
        blocks = list(source)
    assert {len(block) for block in blocks[:-1]} == {160}
    expected = read_audio(tmp_path / "a.wav", target_rate=8000, channel="right")
    assert np.array_equal(np.concatenate(blocks), expected.numpy())


def test_a_pipe_is_read_before_it_ends() -> None:
    reading, writing = os.pipe()
    samples = (NOISE[:960, 0] * 32768).astype("<i2")
    with open(reading, "rb") as stream, open(writing, "wb", buffering=0) as pipe:
        source = FileSource(stream, 16000, raw=RawFormat("s16le"))
        blocks = iter(source)
        for start in (0, 320, 640):
            part = samples[start : start + 320]
            pipe.write(part.tobytes())
            assert np.array_equal(next(blocks), part / np.float32(32768))
        pipe.close()
        assert list(blocks) == []


def test_a_file_that_cannot_be_read_is_refused_before_it_is_played(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="no such file"):
        FileSource(tmp_path / "gone.wav", 16000)
    with pytest.raises(AudioError, match="is an empty file"):
        list(FileSource(io.BytesIO(), 16000))
