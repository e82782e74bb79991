"""Decodes a container as its bytes arrive: WebM, as `MediaRecorder` sends it."""

import threading

import numpy as np
from numpy.typing import NDArray

from speechkit.data.foreign import decoded_by_av
from speechkit.data.samples import mono
from speechkit.errors import AudioError

NAME = "the stream"


class WebM:
    """The sound track of WebM in pieces.

    PyAV reads from a thread of its own, which waits between two pieces. Methods wait for it, so
    call them from a thread.
    """

    def __init__(self) -> None:
        self._data = bytearray()
        self._ended = self._hungry = self._over = False
        self._found: list[tuple[NDArray[np.float32], int]] = []
        self._error: Exception | None = None
        self._turn = threading.Condition()
        self._thread = threading.Thread(target=self._decode, name="webm", daemon=True)
        self._thread.start()

    def feed(self, data: bytes) -> list[tuple[NDArray[np.float32], int]]:
        """The mono sound `[N]`, each part with its rate, that these bytes complete."""
        with self._turn:
            self._data += data
            return self._decoded()

    def end(self) -> list[tuple[NDArray[np.float32], int]]:
        """The rest, after the last bytes."""
        with self._turn:
            self._ended = True
            found = self._decoded()
        self._thread.join()
        return found

    def _decoded(self) -> list[tuple[NDArray[np.float32], int]]:
        self._hungry = False
        self._turn.notify_all()
        self._turn.wait_for(lambda: self._over or (self._hungry and not self._ended))
        if self._error is not None:
            raise self._error
        found, self._found = self._found, []
        return found

    def read(self, size: int) -> bytes:
        """The next bytes for PyAV, b"" at the end."""
        with self._turn:
            while not self._data and not self._ended:
                self._hungry = True
                self._turn.notify_all()
                self._turn.wait_for(lambda: self._data or self._ended)
            data = bytes(self._data[:size])
            del self._data[:size]
            return data

    def _decode(self) -> None:
        try:
            for frames, rate in decoded_by_av(self, "matroska", NAME):
                sound = mono(frames, NAME)
                with self._turn:
                    self._found.append((sound, rate))
        except Exception as error:
            self._error = error if isinstance(error, AudioError) else AudioError(str(error))
        finally:
            with self._turn:
                self._over = True
                self._turn.notify_all()
