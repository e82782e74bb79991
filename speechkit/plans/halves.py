"""Weights in a plan's file: blocks that half precision holds exactly take half the bytes."""

import numpy as np
from numpy.typing import NDArray

from speechkit.io.untrusted import UntrustedError

BLOCK = 256
"""The weights of a block."""
Floats = NDArray[np.float32]
Halves = NDArray[np.float16]
Marks = NDArray[np.uint8]


def split(weights: Floats) -> tuple[Floats, Halves, Marks]:
    """`weights [W]` as those in float32, blocks `[n, BLOCK]` in float16, and which blocks these
    are (1), `[W // BLOCK]`."""
    blocks = weights[: len(weights) // BLOCK * BLOCK].reshape(-1, BLOCK)
    with np.errstate(over="ignore"):
        halves = blocks.astype(np.float16)
    # by their bits, since some weights hold the bits of integers
    same = halves.astype(np.float32).view(np.uint32) == blocks.view(np.uint32)
    exact = same.all(axis=1)
    rest = [blocks[~exact].reshape(-1), weights[blocks.size :]]
    return np.concatenate(rest), halves[exact], exact.astype(np.uint8)


def joined(rest: Floats, halves: Halves, marks: Marks) -> Floats:
    """The weights that `split` gave; raises UntrustedError where the three do not fit together."""
    count = rest.size + halves.size
    exact = marks == 1
    if (
        halves.ndim != 2
        or halves.shape[1] != BLOCK
        or len(marks) != count // BLOCK
        or exact.sum() != len(halves)
    ):
        raise UntrustedError("'halves', 'marks' and 'weights' do not fit together")
    blocks = np.empty((len(marks), BLOCK), np.float32)
    blocks[exact] = halves
    own = blocks[~exact].size
    blocks[~exact] = rest[:own].reshape(-1, BLOCK)
    return np.concatenate([blocks.reshape(-1), rest[own:]])
