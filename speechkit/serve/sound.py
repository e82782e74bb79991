"""The sound of a live connection at the rate of its session."""

import asyncio
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from speechkit.data.pipes import check_format
from speechkit.data.samples import LOUDEST, as_samples
from speechkit.errors import AudioError
from speechkit.serve.containers import WebM

DTYPES = {"s16le": "<i2", "f32le": "<f4"}
ENCODINGS = (*DTYPES, "webm")


class Sound(Protocol):
    """Decodes the messages of a connection."""

    async def feed(self, data: bytes) -> NDArray[np.float32]:
        """The samples `[N]` that these bytes complete; raises AudioError."""
        ...

    async def end(self) -> NDArray[np.float32]:
        """The rest; raises AudioError if the sound ends within a sample."""
        ...


class Resampled:
    """Sound at any rate, converted to `rate` hertz as `listen --file` does."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._resampler: Any = None
        self._given = 0

    def feed(self, x: NDArray[np.float32], rate: int, last: bool = False) -> NDArray[np.float32]:
        """The samples at the new rate that these complete."""
        if rate == self._rate:
            return x
        if self._resampler is None:
            from soxr import ResampleStream

            self._given = rate
            self._resampler = ResampleStream(rate, self._rate, 1, quality="HQ")
        if rate != self._given:
            raise AudioError(f"the sound changes from {self._given} to {rate} Hz; connect anew")
        # sound at full scale may reach beyond it between its samples
        changed: NDArray[np.float32] = self._resampler.resample_chunk(x, last)
        return changed.clip(-LOUDEST, LOUDEST)

    def end(self) -> NDArray[np.float32]:
        """The last samples."""
        nothing = np.zeros(0, np.float32)
        return nothing if self._resampler is None else self.feed(nothing, self._given, last=True)


class Pcm:
    """Mono samples without a header, `s16le` or `f32le`, in messages of any size."""

    def __init__(self, encoding: str, rate: int, session_rate: int) -> None:
        check_format(rate, 1, "the stream")
        self._dtype, self._rate = np.dtype(DTYPES[encoding]), rate
        self._resampled = Resampled(session_rate)
        self._rest = b""

    async def feed(self, data: bytes) -> NDArray[np.float32]:
        data = self._rest + data if self._rest else data
        whole = len(data) - len(data) % self._dtype.itemsize
        self._rest = data[whole:]
        samples = np.frombuffer(data[:whole], self._dtype)
        if not len(samples):
            return np.zeros(0, np.float32)
        return self._resampled.feed(as_samples(samples), self._rate)

    async def end(self) -> NDArray[np.float32]:
        if self._rest:
            raise AudioError(
                f"the stream ends within a sample of {self._dtype.itemsize} bytes; check encoding="
            )
        return self._resampled.end()


class Container:
    """WebM; PyAV decodes it in a thread."""

    def __init__(self, session_rate: int) -> None:
        self._webm, self._resampled = WebM(), Resampled(session_rate)

    async def feed(self, data: bytes) -> NDArray[np.float32]:
        return self._joined(await asyncio.to_thread(self._webm.feed, data))

    async def end(self) -> NDArray[np.float32]:
        rest = self._joined(await asyncio.to_thread(self._webm.end))
        return np.concatenate([rest, self._resampled.end()])

    def _joined(self, parts: list[tuple[NDArray[np.float32], int]]) -> NDArray[np.float32]:
        sound = [self._resampled.feed(as_samples(x), rate) for x, rate in parts]
        return np.concatenate([np.zeros(0, np.float32), *sound])


def sound_of(encoding: str, rate: int, session_rate: int) -> Sound:
    """The decoder of an encoding; raises AudioError for an unknown one or an impossible rate."""
    if encoding not in ENCODINGS:
        raise AudioError(f"encoding={encoding!r:.40}, expected {', '.join(ENCODINGS)}")
    return Container(session_rate) if encoding == "webm" else Pcm(encoding, rate, session_rate)
