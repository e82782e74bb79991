"""Numpy arrays over the numbers that users give: arrays, torch tensors and others."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def array_of(numbers: Any) -> NDArray[Any]:
    """The array over the memory of an array, a torch tensor or another object with `__array__`.

    Tensors on a device are copied from there. Raises TypeError for other objects, and TypeError or
    RuntimeError for tensors that numpy cannot hold: sparse ones, bfloat16, those without memory.
    """
    if isinstance(numbers, np.ndarray):
        return numbers
    if not hasattr(numbers, "__array__"):
        raise TypeError(f"{type(numbers).__name__} is no array")
    # a tensor with a gradient or on a device has no `__array__`; torch need not be imported
    forced = getattr(numbers, "detach", None) is not None
    found: NDArray[Any] = numbers.numpy(force=True) if forced else np.asarray(numbers)
    return found
