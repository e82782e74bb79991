"""Live samples as they arrive in pieces of any size, at the rate of a model."""

import numpy as np
import soxr
from numpy.typing import NDArray

from speechkit.data.pipes import Encoding, check_format
from speechkit.data.samples import LOUDEST, as_floats, check

NAME = "the live sound"
SCALE = np.float32(1 / 32768)
DTYPES: dict[str, str] = {"s16le": "<i2", "f32le": "<f4"}


class Resampled:
    """Mono float32 in [-1, 1] at `rate` hertz changed to `target_rate`, as files are read.

    Raises AudioError for a rate out of range.
    """

    def __init__(self, rate: int, target_rate: int) -> None:
        check_format(rate, 1, NAME)
        self._resampler = (
            None if rate == target_rate else soxr.ResampleStream(rate, target_rate, 1, quality="HQ")
        )

    def feed(self, x: NDArray[np.float32], last: bool = False) -> NDArray[np.float32]:
        """The next samples `[N]` at the target rate, the rest of them if these are the last."""
        if self._resampler is None:
            return x
        # sound at full scale may reach beyond it between its samples
        found: NDArray[np.float32] = self._resampler.resample_chunk(x, last)
        return np.clip(found, -LOUDEST, LOUDEST)


def checked(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The samples in [-1, 1]; raises AudioError for NaN and for values far beyond."""
    check(x, NAME)
    return np.clip(x, -1, 1)


class Pcm:
    """Samples without a header, cut anywhere."""

    waits = False

    def __init__(self, encoding: Encoding, rate: int, target_rate: int) -> None:
        self._dtype = np.dtype(DTYPES[encoding])
        self._resampled = Resampled(rate, target_rate)
        self._rest = b""

    def feed(self, data: bytes) -> NDArray[np.float32]:
        """The whole samples of the next bytes, `[N]` at the target rate."""
        data = self._rest + data
        whole = len(data) - len(data) % self._dtype.itemsize
        self._rest = data[whole:]
        x = np.frombuffer(data[:whole], self._dtype)
        if self._dtype.kind == "f":
            return self._resampled.feed(checked(as_floats(x)))
        # no number of 16 bits is out of range, and this is called for every message
        return self._resampled.feed(np.multiply(x, SCALE, dtype=np.float32))

    def end(self) -> NDArray[np.float32]:
        """The last samples; bytes within a sample are left out."""
        return self._resampled.feed(np.zeros(0, np.float32), last=True)

    def close(self) -> None:
        """Does nothing; there is nothing to end."""
