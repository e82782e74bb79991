"""What an engine does: it computes the scores of sessions, block by block."""

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from speechkit.plans.timing import Timed
from speechkit.streaming.waiting import Rows, Waiting


class Scored(Protocol):
    """The scores of blocks, and which frames are valid; the next step may overwrite them.

    A device may still be computing them; reading them waits for it.
    """

    @property
    def scores(self) -> NDArray[np.float32]:
        """The scores `[n, blocks, T, C]`."""
        ...

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Which frames are valid, `[n, blocks, T]`."""
        ...


class Scores(NamedTuple):
    """Scores and their validity in arrays, already computed."""

    scores: NDArray[np.float32]
    valid: NDArray[np.bool_]


class Engine(Timed, Protocol):
    """Computes the scores of sessions, each in a row with a state of its own.

    Their samples are in `waiting`, and a block is a multiple of `stride` samples. The scores of at
    most `most_in_progress` steps may be unread.
    """

    backend: str
    """ "native", "cuda", or "torch: " and the reason."""
    net: Any
    """The net as it is computed, for `sk.ops.explain`."""
    waiting: Waiting
    bytes_each: int
    """The memory of a session in bytes."""
    most_in_progress: int

    def most(self, blocks: int) -> int:
        """The number of blocks, up to `blocks`, that one step can compute."""
        ...

    def make_ready(self, sessions: int) -> None:
        """Prepares the steps of up to `sessions` sessions, which takes long on some devices."""
        ...

    def step(self, rows: Rows, blocks: int) -> Scored:
        """The scores of the next `blocks` blocks of the sessions in `rows`."""
        ...

    def reset(self, rows: Rows) -> None:
        """Starts new sessions in rows."""
        ...

    def state(self, row: int) -> dict[str, NDArray[Any]]:
        """The arrays that a session's next block depends on, besides its samples.

        The engine may change them later.
        """
        ...

    def restore(self, row: int, state: dict[str, NDArray[Any]]) -> None:
        """Restores a session's state."""
        ...
