"""From logits to probabilities."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """exp(x_i) / Σ_j exp(x_j) over the last axis, in float64. Shape: `[..., n]` → `[..., n]`."""
    x = np.asarray(logits, np.float64)
    shares: NDArray[np.float64] = np.exp(x - x.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    return shares


def speech_probability(logits: Sequence[float]) -> float:
    """The softmax probability of class 1; in Python, which is faster than numpy for one frame."""
    top = max(logits)
    shares = [math.exp(x - top) for x in logits]
    return shares[1] / sum(shares)
