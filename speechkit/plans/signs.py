"""Signs in a plan's weights: 30 in each float, as the bits of an integer."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

STORED = 30
"""The signs in a float. Its two highest bits are 0, so that it is finite."""


def packed_signs(values: ArrayLike) -> NDArray[np.float32]:
    """The signs of all values, row by row: a bit is set where a value is not negative."""
    bits = np.asarray(values).ravel() >= 0
    groups = np.pad(bits, (0, -len(bits) % STORED)).reshape(-1, STORED)
    return (groups @ (1 << np.arange(STORED))).astype(np.int32).view(np.float32)
