"""What an engine does: it computes the scores of sessions, block by block."""

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from speechkit.plans.timing import Timed
from speechkit.streaming.waiting import Rows, Waiting


class Scored(Protocol):
    """The scores of blocks, and which frames are valid; the next step may overwrite them.

    A device may still compute them: they are waited for when they are read.
    """

    @property
    def scores(self) -> NDArray[np.float32]:
        """`[n, blocks, T, C]`."""
        ...

    @property
    def valid(self) -> NDArray[np.bool_]:
        """`[n, blocks, T]`."""
        ...


class Scores(NamedTuple):
    """The same, computed."""

    scores: NDArray[np.float32]
    valid: NDArray[np.bool_]


class Engine(Timed, Protocol):
    """Computes the scores of sessions, each in a row with a state of its own.

    Their samples are those in `waiting`, and blocks are a multiple of `stride` samples. At most
    `most_in_progress` steps may be in progress whose scores were not read.
    """

    backend: str
    """ "native", "cuda", or "torch: " and the reason."""
    net: Any
    """The net as it is computed, for `sk.ops.explain`."""
    waiting: Waiting
    bytes_each: int
    """The memory of a session."""
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
        """All numbers that a session's next block depends on, besides its samples, which the
        engine may change later."""
        ...

    def restore(self, row: int, state: dict[str, NDArray[Any]]) -> None:
        """Restores a session's state."""
        ...
