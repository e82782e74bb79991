"""Where live samples come from: a microphone, or a file played as if it were one."""

import queue
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from speechkit.data import read_audio
from speechkit.errors import AudioError, MissingExtraError

BLOCK_S = 0.02
"""How much sound a source gives at a time."""
WAITING_S = 5.0
"""How much sound may wait for a listener that falls behind, before more of it is dropped."""


class FileSource:
    """The samples of a file in blocks, at `sample_rate` hertz; `realtime` gives them no faster
    than they would be heard. It drops nothing."""

    dropped_samples = 0

    def __init__(self, path: Path, sample_rate: int, realtime: bool = False) -> None:
        self.sample_rate, self.realtime = sample_rate, realtime
        self._samples = read_audio(path, target_rate=sample_rate).numpy()

    def __enter__(self) -> "FileSource":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Iterator[np.ndarray]:
        block = round(BLOCK_S * self.sample_rate)
        began_s = time.monotonic()
        for start in range(0, len(self._samples), block):
            part = self._samples[start : start + block]
            if self.realtime:
                due_s = began_s + (start + len(part)) / self.sample_rate
                time.sleep(max(0.0, due_s - time.monotonic()))
            yield part


class Microphone:
    """An input device as blocks of mono float32, for as long as the `with` block lasts.

    It runs at `wanted_rate` hertz where the device can, else at the device's own rate:
    `sample_rate` says which. `dropped_samples` counts what came while nobody listened.
    """

    def __init__(self, wanted_rate: int, device: int | None = None) -> None:
        self._sounddevice = import_sounddevice()
        self.device = device
        self.sample_rate = self._rate(wanted_rate)
        self.dropped_samples = 0
        block = round(BLOCK_S * self.sample_rate)
        self._blocks: queue.Queue[np.ndarray] = queue.Queue(round(WAITING_S / BLOCK_S))
        self._stream = self._sounddevice.InputStream(
            samplerate=self.sample_rate,
            blocksize=block,
            device=device,
            channels=1,
            dtype="float32",
            callback=self._hear,
        )

    def __enter__(self) -> "Microphone":
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

    def __iter__(self) -> Iterator[np.ndarray]:
        while self._stream.active or not self._blocks.empty():
            try:
                yield self._blocks.get(timeout=0.5)
            except queue.Empty:
                continue

    def _hear(self, samples: np.ndarray, frames: int, at: Any, status: Any) -> None:
        """Called by the sound card's thread, which must not wait."""
        if status.input_overflow:
            # the driver does not say how much it lost
            self.dropped_samples += frames
        try:
            self._blocks.put_nowait(samples[:, 0].copy())
        except queue.Full:
            self.dropped_samples += frames

    def _rate(self, wanted: int) -> int:
        try:
            self._sounddevice.check_input_settings(
                device=self.device, channels=1, dtype="float32", samplerate=wanted
            )
            return wanted
        except (ValueError, self._sounddevice.PortAudioError):
            pass
        try:
            info = self._sounddevice.query_devices(self.device, "input")
        except (ValueError, self._sounddevice.PortAudioError) as error:
            name = "no input device" if self.device is None else f"input device {self.device}"
            raise AudioError(
                f"{name}: {error}; see the devices with: speechkit doctor, or give --file"
            ) from error
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
