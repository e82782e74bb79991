"""Where live samples come from: a microphone, or a file played as if it were one."""

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

from speechkit.data import Channel, RawFormat, Source, read_blocks
from speechkit.errors import AudioError, MissingExtraError

BLOCK_S = 0.02
"""How much sound a source gives at a time."""
READ_S = 60.0
"""How much of a file is read at a time."""
WAITING_S = 5.0
"""How much sound may wait for a listener that falls behind, before more of it is dropped."""
POLL_S = 0.1
QUIET_S = 2.0
"""A warning is given if a microphone gives no sound for so long."""
STALLED_S = 0.5
"""How much later than due a block must begin to count as one after a gap of which the driver says
nothing."""

_log = logging.getLogger(__name__)


class FileSource:
    """The samples of a file or an open stream in blocks, at `sample_rate` hertz, `channel` and
    `raw` as in `read_audio`; `realtime` gives them no faster than in real time. It drops
    nothing, and a pipe's blocks come as their sound arrives."""

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
        self._blocks = read_blocks(
            source,
            target_rate=sample_rate,
            block_s=READ_S if is_file else BLOCK_S,
            channel=channel,
            raw=raw,
        )
        if is_file:
            # what cannot be read is refused here; a pipe may have nothing to read yet
            self._blocks = chain([next(self._blocks)], self._blocks)

    def __enter__(self) -> "FileSource":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        block = round(BLOCK_S * self.sample_rate)
        began_s, given = time.monotonic(), 0
        for part in (part for read in self._blocks for part in read.split(block)):
            given += len(part)
            if self.realtime:
                due_s = began_s + given / self.sample_rate
                time.sleep(max(0.0, due_s - time.monotonic()))
            yield part.numpy()


class Microphone:
    """An input device as blocks of mono float32, for as long as the `with` block lasts.

    It runs at `wanted_rate` hertz where the device can, else at the device's own rate:
    `sample_rate` says which. `lost_samples` were lost before the latest block, `dropped_samples`
    in all: they came faster than they were taken, or the driver could not keep up. AudioError where
    the device cannot be opened, or stops. After `QUIET_S` without any sound a warning is logged.
    """

    def __init__(self, wanted_rate: int, device: int | None = None) -> None:
        self._sounddevice = import_sounddevice()
        self.device = device
        self._name = "the default input device" if device is None else f"input device {device}"
        self.sample_rate = self._rate(wanted_rate)
        self.lost_samples = self.dropped_samples = 0
        # lost since the last block that found room, and when the next sample is due
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
                callback=self._hear,
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
                # in this order: the last block is there before the stream ends
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

    def _hear(self, samples: NDArray[np.float32], frames: int, at: Any, status: Any) -> None:
        """Called by the sound card's thread, which must not wait."""
        self._lose(self._missing(at.inputBufferAdcTime, frames, status.input_overflow))
        try:
            self._blocks.put_nowait((samples[:, 0].copy(), self._lost))
            self._lost = 0
        except queue.Full:
            self._lose(frames)

    def _missing(self, begins_s: float, frames: int, overflow: bool) -> int:
        """How many samples are missing before a block that begins at a time of the device's clock,
        which is 0 where the driver has none."""
        late = round((begins_s - self._due_s) * self.sample_rate) if self._due_s else 0
        self._due_s = begins_s + frames / self.sample_rate if begins_s else 0.0
        if overflow:
            # where the clock does not tell it was a block at least
            return late if late > 0 else frames
        # a clock is not quite regular
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
    """The optional package that reads microphones; MissingExtraError or AudioError without it."""
    try:
        import sounddevice
    except ImportError as error:
        raise MissingExtraError("sounddevice", "mic") from error
    except OSError as error:
        raise AudioError(
            f"sounddevice: {error}; type: apt-get install libportaudio2, or your system's PortAudio"
        ) from error
    return sounddevice
