"""Sources of live samples: a microphone, or a file that is read like one."""

import logging
import os
import queue
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechkit.data.audio import Source, read_sample_blocks
from speechkit.data.pipes import RawFormat
from speechkit.data.samples import Channel
from speechkit.errors import AudioError, MissingExtraError

BLOCK_S = 0.02
"""The duration of a source's blocks."""
READ_S = 60.0
"""The duration that is read from a file at a time."""
WAITING_S = 5.0
"""The audio that may wait for a slow reader; more is dropped."""
POLL_S = 0.1
QUIET_S = 2.0
"""A warning is given if a microphone gives no sound for so long."""
STALLED_S = 0.5
"""A block that begins so much later than expected counts as one after a gap, even if the driver
does not report it."""

_log = logging.getLogger(__name__)


class FileSource:
    """The samples of a file or an open stream in blocks, at `sample_rate` hertz.

    `channel` and `raw` are as in `read_samples`. `realtime` limits the speed to real time. No
    samples are dropped, and blocks of a pipe are given as they arrive.
    """

    dropped_samples = lost_samples = 0

    def __init__(
        self,
        source: Source,
        sample_rate: int,
        realtime: bool = False,
        channel: Channel = "mix",
        raw: RawFormat | None = None,
    ) -> None:
        self.sample_rate, self.realtime = sample_rate, realtime
        is_file = isinstance(source, str | os.PathLike | bytes)
        self._blocks = read_sample_blocks(
            source,
            target_rate=sample_rate,
            block_s=READ_S if is_file else BLOCK_S,
            channel=channel,
            raw=raw,
        )
        if is_file:
            # an unreadable file is refused here; a pipe may have no data yet
            self._blocks = chain([next(self._blocks)], self._blocks)

    def __enter__(self) -> "FileSource":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        block = round(BLOCK_S * self.sample_rate)
        began_s, given = time.monotonic(), 0
        for part in _parts(self._blocks, block):
            given += len(part)
            if self.realtime:
                due_s = began_s + given / self.sample_rate
                time.sleep(max(0.0, due_s - time.monotonic()))
            yield part


def _parts(blocks: Iterator[NDArray[np.float32]], size: int) -> Iterator[NDArray[np.float32]]:
    """The samples of blocks, at most `size` at a time."""
    for block in blocks:
        # an empty block gives one empty part, after which a reader can stop
        yield from (block[at : at + size] for at in range(0, max(1, len(block)), size))


class Microphone:
    """Blocks of mono float32 from an input device, for the duration of a `with` block.

    It runs at `wanted_rate` hertz if the device can, else at the device's own rate; `sample_rate`
    is the rate used. `lost_samples` were lost before the latest block, and `dropped_samples` in
    total, because the reader or the driver was too slow. Raises AudioError if the device cannot be
    opened or stops. After `QUIET_S` without samples a warning is logged.
    """

    def __init__(self, wanted_rate: int, device: int | None = None) -> None:
        self._sounddevice = import_sounddevice()
        self.device = device
        self._name = "the default input device" if device is None else f"input device {device}"
        self.sample_rate = self._rate(wanted_rate)
        self.lost_samples = self.dropped_samples = 0
        # samples lost since the last queued block, and the time of the next sample
        self._lost, self._due_s = 0, 0.0
        self._given = 0
        block = round(BLOCK_S * self.sample_rate)
        self._blocks: queue.Queue[tuple[NDArray[np.float32], int]] = queue.Queue(
            round(WAITING_S / BLOCK_S)
        )
        with self._opening():
            self._stream = self._sounddevice.InputStream(
                samplerate=self.sample_rate,
                blocksize=block,
                device=device,
                channels=1,
                dtype="float32",
                callback=self._receive,
            )

    def __enter__(self) -> "Microphone":
        with self._opening():
            self._stream.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.stop()
        self._stream.close()

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        quiet_s = 0.0
        while True:
            try:
                samples, self.lost_samples = self._blocks.get(timeout=POLL_S)
            except queue.Empty:
                # in this order, because the last block is queued before the stream ends
                if not self._stream.active and self._blocks.empty():
                    break
                quiet_s += POLL_S
                if quiet_s - POLL_S < QUIET_S <= quiet_s:
                    _log.warning(
                        "%s has given no sound for %g s; check that it is plugged in and switched "
                        "on, or end with Ctrl-C",
                        *(self._name, QUIET_S),
                    )
                continue
            quiet_s = 0.0
            self._given += self.lost_samples + len(samples)
            yield samples
        self.lost_samples, self._lost = self._lost, 0
        self._given += self.lost_samples
        if self.lost_samples:
            yield np.zeros(0, np.float32)
        raise AudioError(
            f"{self._name} stopped after {self._given / self.sample_rate:.1f} s; check that it is "
            "plugged in, and start again"
        )

    def _receive(self, samples: NDArray[np.float32], frames: int, at: Any, status: Any) -> None:
        """Called from the sound card's thread, which must not wait."""
        self._lose(self._missing(at.inputBufferAdcTime, frames, status.input_overflow))
        try:
            self._blocks.put_nowait((samples[:, 0].copy(), self._lost))
            self._lost = 0
        except queue.Full:
            self._lose(frames)

    def _missing(self, begins_s: float, frames: int, overflow: bool) -> int:
        """The number of samples missing before a block that begins at `begins_s`.

        The time is that of the device's clock, 0 if the driver has none.
        """
        late = round((begins_s - self._due_s) * self.sample_rate) if self._due_s else 0
        self._due_s = begins_s + frames / self.sample_rate if begins_s else 0.0
        if overflow:
            # without a clock, at least one block is missing
            return late if late > 0 else frames
        # clocks are not exactly regular
        return late if late > STALLED_S * self.sample_rate else 0

    def _lose(self, samples: int) -> None:
        self._lost += samples
        self.dropped_samples += samples

    @contextmanager
    def _opening(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, self._sounddevice.PortAudioError) as error:
            raise AudioError(
                f"{self._name}: {error}; close what else uses it, see the devices with: "
                "speechkit doctor, or give --file"
            ) from error

    def _rate(self, wanted: int) -> int:
        try:
            self._sounddevice.check_input_settings(
                device=self.device, channels=1, dtype="float32", samplerate=wanted
            )
            return wanted
        except (ValueError, self._sounddevice.PortAudioError):
            pass
        with self._opening():
            info = self._sounddevice.query_devices(self.device, "input")
        return int(info["default_samplerate"])


def input_devices() -> dict[int, str]:
    """The names of the input devices by number."""
    devices = import_sounddevice().query_devices()
    return {
        index: device["name"]
        for index, device in enumerate(devices)
        if device["max_input_channels"] > 0
    }


def import_sounddevice() -> Any:
    """The optional package for microphones; raises MissingExtraError or AudioError without it."""
    try:
        import sounddevice
    except ImportError as error:
        raise MissingExtraError("sounddevice", "mic") from error
    except OSError as error:
        raise AudioError(
            f"sounddevice: {error}; type: apt-get install libportaudio2, or your system's PortAudio"
        ) from error
    return sounddevice
