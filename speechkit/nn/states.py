"""Walks through the state of a streaming layer, nested tuples of tensors."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from speechkit.nn.stream import State


def tensors_of(state: State) -> Iterator[Tensor]:
    """The tensors of nested tuples, in order."""
    if isinstance(state, Tensor):
        yield state
    else:
        for part in state:
            yield from tensors_of(part)


def rebuilt(state: State, tensors: Iterator[Tensor]) -> State:
    """The nested structure of `state` with other tensors."""
    if isinstance(state, Tensor):
        return next(tensors)
    return tuple(rebuilt(part, tensors) for part in state)


def copied(state: State) -> State:
    """The same state in its own memory."""
    return rebuilt(state, (x.clone() for x in tensors_of(state)))


def arrays_of(state: State) -> dict[str, NDArray[Any]]:
    """The tensors as arrays named `layers.N`, by `in_numpy`."""
    found = enumerate(tensors_of(state))
    return {f"layers.{i}": in_numpy(x) for i, x in found}


def restored(state: State, arrays: Iterable[NDArray[Any]]) -> State:
    """The nested structure of `state` with the values of `arrays`, as `arrays_of` gives them."""
    pairs = zip(tensors_of(state), arrays, strict=True)
    return rebuilt(state, (torch.from_numpy(array).to(x) for x, array in pairs))


def in_numpy(x: Tensor) -> NDArray[Any]:
    """The tensor as an array on the CPU; bfloat16, which numpy lacks, becomes float32."""
    found: NDArray[Any] = (x.float() if x.dtype == torch.bfloat16 else x).numpy(force=True)
    return found
