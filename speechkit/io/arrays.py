"""Numpy arrays over the numbers that users give, such as torch tensors, and digests of arrays."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from typing_extensions import TypeIs


DIGEST_BYTES = 16


class Numbers(Protocol):
    """Numbers that numpy can read, such as a torch tensor."""

    def __array__(self, dtype: Any = None) -> NDArray[Any]: ...

    def __iter__(self) -> Iterator[Any]: ...


def is_array(given: object) -> "TypeIs[NDArray[Any] | Numbers]":
    """True for arrays, tensors and other objects with `__array__`."""
    return hasattr(given, "__array__")


def array_of(numbers: Any) -> NDArray[Any]:
    """The numpy array over the memory of an array, a torch tensor or other object with `__array__`.

    Tensors on a device are copied to the CPU. Raises TypeError for other objects, and TypeError or
    RuntimeError for tensors that numpy cannot hold: sparse ones, bfloat16, those without memory.
    """
    if not hasattr(numbers, "__array__"):
        raise TypeError(f"{type(numbers).__name__} is no array")
    # `__array__` fails for tensors with a gradient or on a device; only tensors have `detach`
    found: NDArray[Any]
    found = numbers.numpy(force=True) if hasattr(numbers, "detach") else np.asarray(numbers)
    return found


def digest_of(arrays: Mapping[str, NDArray[Any]], text: bytes) -> bytes:
    """A digest of named arrays and a text."""
    digest = hashlib.blake2b(text, digest_size=DIGEST_BYTES)
    for name, x in sorted(arrays.items()):
        # the names of types are torch's, as in the states that were stored before
        digest.update(f"\n{name} torch.{x.dtype.name} {list(x.shape)}\n".encode())
        digest.update(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data)
    return digest.digest()
