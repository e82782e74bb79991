"""Weights in a plan's file: blocks that a narrower type holds exactly take fewer bytes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechkit.io.untrusted import UntrustedError

BLOCK = 256
"""The weights of a block."""
NARROW = {"halves": np.float16, "bytes": np.int8}
"""The types of narrow blocks by name, the narrowest last; `marks` counts them from 1."""
Floats = NDArray[np.float32]
Parts = dict[str, NDArray[Any]]


def split(weights: Floats) -> Parts:
    """`weights [W]` as those in float32, and if any: blocks of NARROW `[n, BLOCK]` and `marks`,
    which blocks these are, `[W // BLOCK]`."""
    blocks = weights[: len(weights) // BLOCK * BLOCK].reshape(-1, BLOCK)
    marks = np.zeros(len(blocks), np.uint8)
    for mark, kind in enumerate(NARROW.values(), 1):
        with np.errstate(over="ignore", invalid="ignore"):
            back = blocks.astype(kind).astype(np.float32)
        # by their bits, since some weights hold the bits of integers
        marks[(back.view(np.uint32) == blocks.view(np.uint32)).all(axis=1)] = mark
    rest = [blocks[marks == 0].reshape(-1), weights[blocks.size :]]
    parts: Parts = {"weights": np.concatenate(rest)}
    for mark, (name, kind) in enumerate(NARROW.items(), 1):
        if (marks == mark).any():
            parts |= {name: blocks[marks == mark].astype(kind), "marks": marks}
    return parts


def joined(parts: Parts) -> Floats:
    """The weights that `split` gave; raises UntrustedError where the parts do not fit together."""
    rest = parts["weights"]
    narrow = [parts.get(name, np.empty((0, BLOCK))) for name in NARROW]
    marks = parts.get("marks", np.zeros(rest.size // BLOCK, np.uint8))
    places = [marks == mark for mark in range(1 + len(NARROW))]
    fits = (
        sum(map(np.sum, places)) == len(marks) == (rest.size + sum(x.size for x in narrow)) // BLOCK
    )
    for place, x in zip(places[1:], narrow, strict=True):
        fits = fits and x.shape == (place.sum(), BLOCK)
    if not fits:
        raise UntrustedError("the blocks of weights and 'marks' do not fit together")
    blocks = np.empty((len(marks), BLOCK), np.float32)
    own = int(places[0].sum()) * BLOCK
    for place, x in zip(places, (rest[:own].reshape(-1, BLOCK), *narrow), strict=True):
        blocks[place] = x
    return np.concatenate([blocks.reshape(-1), rest[own:]])
