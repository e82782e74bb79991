"""Converts arrays and tensors of samples to mono float32."""

from typing import Any, Literal, TypeGuard

import numpy as np
from numpy.typing import NDArray

from speechkit.errors import AudioError
from speechkit.io.arrays import Numbers, array_of, is_array
from speechkit.limits import MAX_CHANNELS

Samples = NDArray[Any] | Numbers
Channel = Literal["mix", "left", "right"] | int
"""The channel to read: the mean of all, the first, the second, or a number from 1 on."""
LOUDEST = 2.0
"""Samples beyond it have another full scale; up to it they are clipped to ±1."""


def as_samples(source: Samples) -> NDArray[np.float32]:
    """Samples as contiguous mono float32 in [-1, 1]; the sample rate is not changed.

    Shape: `[N]` or `[N, channels]` of float32, float64 or int16, N ≥ 0; returns `[N]`.
    """
    if is_sound(source, 1):
        return np.ascontiguousarray(source)
    if not is_array(source):
        kind = type(source).__name__
        raise AudioError(f"cannot read {kind} as samples; give a numpy array or a tensor")
    name = name_of(source)
    x = mono(as_floats(as_array(source)), name)
    check(x, name)
    return np.clip(x, -1, 1)


def is_sound(source: object, dimensions: int) -> TypeGuard[NDArray[np.float32]]:
    """True for float32 in [-1, 1], which needs no conversion; most live audio is such."""
    # not for a subclass, such as a masked array
    if type(source) is not np.ndarray or source.dtype != np.float32:
        return False
    if source.ndim != dimensions or not source.size:
        return False
    # a NaN makes the comparison false
    return bool(np.maximum.reduce(np.abs(source), axis=None) <= 1)


def as_array(source: Samples) -> NDArray[Any]:
    """An array `[N]` or `[N, channels]` over the memory of samples; AudioError for other data."""
    name = name_of(source)
    if isinstance(source, np.ma.MaskedArray):
        raise AudioError(f"{name} has a mask; fill it with x.filled(0)")
    given = getattr(source, "dtype", None)
    dtype = getattr(given, "name", str(given)).removeprefix("torch.")
    if dtype not in ("float32", "float64", "int16"):
        raise AudioError(f"{name} is {dtype}; convert it to float32 in [-1, 1] or to int16")
    try:
        x = array_of(source)
    # fails for sparse, nested and masked tensors, and those without memory
    except (RuntimeError, TypeError) as error:
        raise AudioError(f"{name} is no plain tensor: {error}; give x.to_dense()") from error
    if x.ndim not in (1, 2):
        raise AudioError(f"{name} is neither [N] nor [N, channels]; give one utterance")
    if x.ndim == 2 and not 1 <= x.shape[1] <= MAX_CHANNELS:
        raise AudioError(
            f"{name} has {x.shape[1]} channels, expected 1 to {MAX_CHANNELS}; give x.T where time "
            "is the last axis"
        )
    return x


# `check` refuses the result
@np.errstate(invalid="ignore", over="ignore")
def as_floats(x: NDArray[Any]) -> NDArray[np.float32]:
    """A new array of float32; int16 is multiplied by 1/32768."""
    return x.astype(np.float32, order="C") / (32768 if x.dtype == np.int16 else 1)


@np.errstate(invalid="ignore", over="ignore")
def mono(x: NDArray[np.float32], name: str, channel: Channel = "mix") -> NDArray[np.float32]:
    """One channel of `[N]` or `[N, channels]`, or the mean of all."""
    number = {"left": 1, "right": 2}.get(channel, channel) if isinstance(channel, str) else channel
    count = 1 if x.ndim == 1 else x.shape[1]
    if number == "mix":
        return x if x.ndim == 1 else np.divide(sum(x.T), count)
    if not isinstance(number, int) or not 1 <= number <= count:
        raise AudioError(
            f"{name} has {count} {'channel' if count == 1 else 'channels'}, not channel "
            f"{channel!r}; give mix, left, right or a number from 1 to {count}"
        )
    return x if x.ndim == 1 else np.ascontiguousarray(x[:, number - 1])


def check(x: NDArray[np.float32], name: str) -> None:
    """Raises AudioError for NaN, infinity and values beyond full scale."""
    if not np.isfinite(x).all():
        raise AudioError(f"{name} contains NaN or infinity; repair it or leave it out")
    peak = np.abs(x).max(initial=0)
    if peak > LOUDEST:
        raise AudioError(
            f"{name} reaches {peak:g}, expected [-1, 1]; divide it by its full scale, such as 32768"
        )


def name_of(source: Samples) -> str:
    """The name of samples in messages."""
    kind = type(source).__name__
    # a nested tensor has no shape
    nested = getattr(source, "is_nested", False)
    shape = None if nested else getattr(source, "shape", None)
    return kind if shape is None else f"{kind} of shape {tuple(shape)}"
