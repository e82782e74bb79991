"""Opus in WebM as a browser's MediaRecorder sends it, decoded by PyAV while it arrives."""

import queue
import threading

import numpy as np
from numpy.typing import NDArray

from speechkit.data.samples import mono
from speechkit.errors import AudioError, MissingExtraError
from speechkit.serve.sound import NAME, Resampled, checked

MOST_WAITING = 64
"""Pieces that may wait for the decoder."""
OPTIONS = {"probesize": "32", "analyzeduration": "0"}
"""The file's header describes its sound, so that decoding begins with the first packet."""


class _Pieces:
    """A file for PyAV, whose bytes are put by another thread; b"" is the end."""

    def __init__(self) -> None:
        self.queue: queue.Queue[bytes] = queue.Queue(MOST_WAITING)
        self._rest, self._ended = b"", False

    def read(self, size: int) -> bytes:
        """At most `size` bytes, as soon as some are there."""
        if not self._rest and not self._ended:
            self._rest = self.queue.get()
            self._ended = not self._rest
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


class WebM:
    """Decodes the sound of a WebM file that is cut anywhere, in a thread of its own.

    Raises MissingExtraError without PyAV, and AudioError for what cannot be decoded.
    """

    waits = True

    def __init__(self, target_rate: int) -> None:
        try:
            import av
        except ImportError as error:
            raise MissingExtraError("PyAV", "av", "sound in WebM") from error
        self._av, self._target_rate = av, target_rate
        self._pieces, self._closed = _Pieces(), False
        self._decoded: queue.SimpleQueue[NDArray[np.float32]] = queue.SimpleQueue()
        self._resampled: Resampled | None = None
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._decode, name="webm")

    def feed(self, data: bytes) -> NDArray[np.float32]:
        """Takes the next bytes; the samples `[N]` at the target rate that are decoded so far."""
        if self._thread.ident is None:
            self._thread.start()
        if data:
            self._put(data)
        return self._take()

    def end(self) -> NDArray[np.float32]:
        """The last samples; waits for the decoder."""
        self.close()
        # a cut at the end is no error, as in a file
        if self._failure is not None and self._resampled is None:
            raise self._failure
        last = [self._take()]
        if self._resampled is not None:
            last.append(self._resampled.feed(np.zeros(0, np.float32), last=True))
        return np.concatenate(last)

    def close(self) -> None:
        """Ends the decoder."""
        if not self._closed and self._thread.ident is not None:
            self._put(b"")
            self._thread.join()
        self._closed = True

    def _put(self, data: bytes) -> None:
        """Hands bytes to the decoder, and waits where it is slow; drops them if it has failed."""
        while self._thread.is_alive():
            try:
                self._pieces.queue.put(data, timeout=0.1)
                return
            except queue.Full:
                continue

    def _take(self) -> NDArray[np.float32]:
        parts = [np.zeros(0, np.float32)]
        while not self._decoded.empty():
            parts.append(self._decoded.get())
        if self._failure is not None and not self._closed:
            raise self._failure
        return np.concatenate(parts)

    def _decode(self) -> None:
        av = self._av
        try:
            with av.open(self._pieces, "r", format="matroska", options=OPTIONS) as container:
                if not container.streams.audio:
                    raise AudioError(f"{NAME} has no sound track; record one with sound")
                plain = av.AudioResampler(format="fltp")
                for frame in container.decode(container.streams.audio[0]):
                    for part in plain.resample(frame):
                        x = mono(np.ascontiguousarray(part.to_ndarray().T), NAME)
                        if self._resampled is None:
                            self._resampled = Resampled(part.sample_rate, self._target_rate)
                        self._decoded.put(self._resampled.feed(checked(x)))
        except AudioError as error:
            self._failure = error
        # PyAV raises ValueError where the rate or the channels change
        except (av.FFmpegError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            self._failure = AudioError(f"cannot decode {NAME} as WebM: {reason}")
