"""The samples of sessions that wait for a step."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from speechkit.data.samples import Samples, as_samples, is_sound
from speechkit.errors import StreamError

FLOAT32 = np.dtype(np.float32)
Rows = NDArray[np.int64]
"""The rows of sessions, `[n]`."""
SoundCheck = Callable[[int, int], bool]
"""(first, count) → True if these samples, numbered over all rows, are in [-1, 1]."""


class Waiting:
    """A ring of samples for each of `capacity` sessions, which holds `blocks` whole blocks.

    A session was given `given` samples, of which steps have taken `taken`; sample i of row r is
    `sound[r, i % room]`. A session starts at a block, at sample `started`.
    """

    def __init__(self, capacity: int, block_samples: int, blocks: int) -> None:
        self.block_samples, self.room = block_samples, blocks * block_samples
        self.sound = np.zeros((capacity, self.room), np.float32)
        self.given, self.taken, self.started = np.zeros((3, capacity), np.int64)
        self._sound = numbers(self.sound.reshape(-1))
        self.given_to, self.taken_from = numbers(self.given), numbers(self.taken)
        # an engine in C++ replaces it with a faster check
        self.is_sound: SoundCheck = partial(_is_sound, self.sound)

    def put(self, row: int, samples: NDArray[Any]) -> int:
        """Takes a session's next samples `[N]` as far as there is room; returns their number."""
        given, room = self.given_to[row], self.room
        free, at = room - given + self.taken_from[row], given % room
        # most live samples need no conversion
        if (
            type(samples) is np.ndarray
            and samples.dtype is FLOAT32
            and samples.ndim == 1
            and (count := len(samples)) <= free
            and at + count <= room
        ):
            first = row * room + at
            self._sound[first : first + count] = memoryview(samples)  # type: ignore[arg-type]
            if not self.is_sound(first, count):
                self.sound[row, at : at + count] = as_samples(samples)
        else:
            x = as_samples(samples)[:free]
            count = len(x)
            self._write(slice(row, row + 1), at, x[None])
        self.given_to[row] = given + count
        return count

    def put_rows(self, rows: Rows, samples: Samples | Sequence[Samples]) -> Rows:
        """Takes the next samples `[n, N]` of sessions; returns how many of each had room `[n]`."""
        x, given, capacity = rows_of(samples, len(rows)), self.given[rows], len(self.given)
        at, free = given % self.room, self.room - given + self.taken[rows]
        counts: Rows = np.minimum(free, x.shape[1])
        if (at == at[0]).all() and (counts == counts[0]).all():
            self._write(slice(None) if len(rows) == capacity else rows, at[0], x[:, : counts[0]])
        else:
            for row, place, own, count in zip(rows.tolist(), at.tolist(), x, counts, strict=True):
                self._write(slice(row, row + 1), place, own[None, :count])
        self.given[rows] += counts
        return counts

    def take(self, rows: Rows, blocks: int) -> tuple[NDArray[np.float32], Rows]:
        """The next blocks of sessions, `[n, blocks · block_samples]`, and how many samples of each
        are real."""
        length, in_room = self.block_samples, self.room // self.block_samples
        first = self.taken[rows] // length
        places = (first[:, None] + np.arange(blocks)) % in_room + in_room * rows[:, None]
        x = self.sound.reshape(-1, length).take(places, axis=0)
        return x.reshape(len(rows), blocks * length), self.real(rows, blocks * length)

    def real(self, rows: Rows, samples: int) -> Rows:
        """How many of the next `samples` of each session were given; the rest is padding."""
        real: Rows = np.minimum(self.given[rows] - self.taken[rows], samples)
        return real

    def pass_on(self, rows: Rows, blocks: int) -> None:
        """Makes room after a step over blocks."""
        self.taken[rows] += self.real(rows, blocks * self.block_samples)

    def start(self, row: int) -> None:
        """Starts a new session in a row, without samples."""
        at = -(-self.given_to[row] // self.block_samples) * self.block_samples
        self.given[row] = self.taken[row] = self.started[row] = at

    def pending(self, row: int) -> NDArray[np.float32]:
        """The samples of a session's incomplete block, zeros after them."""
        start, end = self.taken_from[row], self.given_to[row]
        x = np.zeros(self.block_samples, np.float32)
        x[: end - start] = self.sound[row, start % self.room :][: end - start]
        return x

    def restore(self, row: int, started: int, taken: int, pending: NDArray[np.float32]) -> None:
        """Sets the place of a session whose incomplete block is `pending [N]`."""
        self.started[row], self.taken[row] = started, taken
        self.given[row] = taken + len(pending)
        self.sound[row, taken % self.room :][: len(pending)] = pending

    def _write(self, rows: slice | Rows, at: int, x: NDArray[np.float32]) -> None:
        """Copies x `[n, N]` into the rings of `rows`, from place `at` on."""
        first = min(x.shape[1], self.room - at)
        self.sound[rows, at : at + first] = x[:, :first]
        if first < x.shape[1]:
            self.sound[rows, : x.shape[1] - first] = x[:, first:]


def _is_sound(sound: NDArray[np.float32], first: int, count: int) -> bool:
    return not count or is_sound(sound.reshape(-1)[first : first + count], 1)


def numbers(x: NDArray[Any]) -> memoryview:
    """A view of an array `[N]` that reads and writes a few numbers several times faster."""
    return memoryview(cast(Any, x))


def rows_of(samples: Samples | Sequence[Samples], size: int) -> NDArray[np.float32]:
    """The samples of `size` sessions as float32 `[size, N]`, checked."""
    if is_sound(samples, 2) and len(samples) == size:
        return np.ascontiguousarray(samples)
    if not isinstance(samples, Sequence) and not getattr(samples, "ndim", 0):
        raise StreamError(f"cannot read {type(samples).__name__} as {size} rows of samples")
    given = list(samples)
    if len(given) != size:
        raise StreamError(f"samples of {len(given)} sessions, expected {size}; give a row for each")
    rows = [as_samples(row) for row in given]
    if len(lengths := {len(row) for row in rows}) > 1:
        raise StreamError(f"rows of {sorted(lengths)} samples; give all of one length")
    return np.stack(rows)
