"""A session's memory as named tensors, the form that safetensors stores."""

import json
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from speechkit.errors import StreamError
from speechkit.nn import State

SESSION = "session"
"""The tensor that holds what is not a tensor: JSON as bytes."""
ASIDE = "tensor"
"""The key under which that JSON names a tensor beside it."""


def tensors_of(state: State) -> Iterator[Tensor]:
    """The tensors of nested tuples, in order."""
    if isinstance(state, Tensor):
        yield state
    else:
        for part in state:
            yield from tensors_of(part)


def rebuilt(state: State, tensors: Iterator[Tensor]) -> State:
    """The nesting of `state` with other tensors in it."""
    if isinstance(state, Tensor):
        return next(tensors)
    return tuple(rebuilt(part, tensors) for part in state)


def pack(tensors: dict[str, Tensor], plain: dict[str, Any]) -> dict[str, Tensor]:
    """Copies of tensors, and beside them plain data, in which there may be tensors too."""
    form = torch.contiguous_format
    copies = {name: tensor.clone(memory_format=form) for name, tensor in tensors.items()}

    def set_aside(tensor: Tensor) -> dict[str, str]:
        name = f"{SESSION}.{len(copies)}"
        copies[name] = tensor.clone(memory_format=form)
        return {ASIDE: name}

    text = json.dumps(plain, default=set_aside)
    return {**copies, SESSION: torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)}


def unpack(
    stored: dict[str, Tensor], like: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `pack` was given; StreamError unless the tensors have the shapes of those in `like`."""
    for name, tensor in like.items():
        given = list(stored[name].shape) if name in stored else "missing"
        if given != list(tensor.shape):
            raise StreamError(
                f"state {name!r} is {given}, expected {list(tensor.shape)}; restore it into a "
                "stream of the same model, size and sample rate"
            )

    def found(name: str) -> Tensor:
        if name not in stored:
            raise StreamError(f"state {name!r} is missing; assign all that `stream.state` gave")
        return stored[name]

    def put_back(row: dict[str, Any]) -> Any:
        return found(row[ASIDE]).clone() if ASIDE in row else row

    text = bytes(found(SESSION).tolist())
    copies = {
        name: stored[name].to(tensor.device, tensor.dtype, copy=True)
        for name, tensor in like.items()
    }
    return copies, json.loads(text, object_hook=put_back)
