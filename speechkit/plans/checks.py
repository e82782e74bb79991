"""Checks of samples and scores that plans and models share."""

import math
from typing import Any, TypeVar

from speechkit.errors import AudioError, CheckpointError

T = TypeVar("T", bound=Any)


def check_length(samples: int, sample_rate: int, shortest: int) -> None:
    """Raises AudioError for a recording with fewer samples than a frame."""
    if samples < shortest:
        raise AudioError(
            f"{samples} samples at {sample_rate} Hz are less than one frame; "
            f"give at least {shortest}"
        )


def finite(scores: T) -> T:
    """The scores, an array or a tensor; raises CheckpointError if some are NaN or infinite."""
    # a NaN makes the comparison false; minus infinity is a probability of 0
    if not (scores < math.inf).all():
        raise CheckpointError(
            "the model gives NaN or infinity for this sound; its weights are damaged: take another"
        )
    return scores
