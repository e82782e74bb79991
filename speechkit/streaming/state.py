"""Converts a session's state to named tensors, as safetensors stores them, and back."""

import hashlib
import json
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from speechkit.config import to_dict
from speechkit.errors import StreamError
from speechkit.limits import MAX_NUMBER
from speechkit.models import Model
from speechkit.nn import State
from speechkit.untrusted import UntrustedError, parse_json

T = TypeVar("T")

SESSION = "session"
"""The tensor with a digest of everything and, as JSON bytes, all values that are no tensors."""
ASIDE = "tensor"
"""The key in that JSON that refers to a tensor by name."""
DIGEST_BYTES = 16
RULES = {"postprocess", "spotting", "endpointing", "confidence"}
"""Settings that may differ when a state is restored: `Model.with_` changes only decisions."""
AGAIN = "begin the session anew"


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


class Resumable:
    """A session that is copied and pickled through its `state`.

    A copy shares the model and the decoder with the original.
    """

    _made_with: tuple[Any, ...]
    """The arguments that make a session like this one."""
    state: Any

    def __reduce__(self) -> Any:
        return _resumed, (type(self), self._made_with, self.state)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return _resumed(type(self), self._made_with, self.state)


def _resumed(kind: Any, made_with: tuple[Any, ...], state: dict[str, Tensor]) -> Any:
    session = kind(*made_with)
    session.state = state
    return session


def settings_of(model: Model, sample_rate: int, vad: Model | None) -> dict[str, Any]:
    """The settings that must be equal to restore a state."""
    detector = None if vad is None else _fingerprint(vad)
    return {"model": _fingerprint(model), "sample_rate": sample_rate, "vad": detector}


_known: weakref.WeakKeyDictionary[Model, tuple[Any, str]] = weakref.WeakKeyDictionary()


def _fingerprint(model: Model) -> str:
    """A digest of a model's weights and config; cached until they change."""
    tensors = model.state_dict()
    version = weights_version(tensors)
    if model not in _known or _known[model][0] != version:
        config = to_dict(model.config)
        net = {name: value for name, value in config.items() if name not in RULES}
        about = [net, model.prepared and model.prepared.dtype]
        _known[model] = version, _digest(tensors, json.dumps(about).encode()).hex()
    return _known[model][1]


def weights_version(tensors: Mapping[str, Tensor]) -> Any:
    """A value that changes when a tensor is replaced or changed in place, except in inference
    mode."""
    return tuple((x.data_ptr(), 0 if x.is_inference() else x._version) for x in tensors.values())


def _digest(tensors: Mapping[str, Tensor], text: bytes) -> bytes:
    digest = hashlib.blake2b(text, digest_size=DIGEST_BYTES)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        plain = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
        digest.update(plain.numpy().data)
    return digest.digest()


def pack(
    tensors: dict[str, Tensor], plain: dict[str, Any], settings: dict[str, Any]
) -> dict[str, Tensor]:
    """Copies of tensors, together with plain data that may contain tensors.

    `settings` are those of the session, by `settings_of`.
    """
    form = torch.contiguous_format
    copies = {name: tensor.clone(memory_format=form) for name, tensor in tensors.items()}

    def set_aside(tensor: Tensor) -> dict[str, str]:
        name = f"{SESSION}.{len(copies)}"
        copies[name] = tensor.clone(memory_format=form)
        return {ASIDE: name}

    text = json.dumps({"settings": settings, "plain": plain}, default=set_aside)
    return seal(copies, text.encode())


def seal(tensors: dict[str, Tensor], text: bytes) -> dict[str, Tensor]:
    """The tensors and their JSON, with a digest of everything."""
    content = _digest(tensors, text) + text
    return {**tensors, SESSION: torch.from_numpy(np.frombuffer(content, np.uint8).copy())}


def unpack(
    stored: Mapping[str, Tensor], like: dict[str, Tensor], settings: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The arguments of `pack`.

    Raises StreamError if the state is incomplete or changed, if its session had other settings, or
    if its tensors are not finite or differ from `like` in shape or type.
    """
    text, rest = _opened(stored)
    try:
        # scores may be -Infinity, and keys have 64 bits
        data = parse_json(text, any_number=True)
    except UntrustedError as error:
        raise StreamError(f"the state is damaged: {error}; {AGAIN}") from error
    about = checked(data, {"settings": dict, "plain": dict})
    if unlike := [name for name, own in settings.items() if about["settings"].get(name) != own]:
        raise StreamError(
            f"this state is of another {' and '.join(unlike)}; restore it into a stream of the "
            "same model, sample rate and settings"
        )
    for name, tensor in like.items():
        check_tensor(name, rest.get(name), tensor)
    copies = {name: rest[name].to(tensor.device, copy=True) for name, tensor in like.items()}

    def put_back(value: Any) -> Any:
        if isinstance(value, list):
            return [put_back(item) for item in value]
        if not isinstance(value, dict):
            return value
        if ASIDE in value:
            name = value[ASIDE]
            if not isinstance(name, str) or name not in rest:
                raise StreamError(f"the state is damaged: it lacks {name!r}; {AGAIN}")
            return rest[name].clone()
        return {key: put_back(item) for key, item in value.items()}

    return copies, put_back(about["plain"])


def _opened(stored: Mapping[str, Tensor]) -> tuple[bytes, dict[str, Tensor]]:
    """The JSON and the tensors of a state; raises StreamError if the digest is wrong."""
    whole = "assign all that `stream.state` gave, as safetensors.torch loads it"
    if not isinstance(stored, Mapping) or not all(isinstance(x, Tensor) for x in stored.values()):
        raise StreamError(f"a state is a dict of names and tensors; {whole}")
    if SESSION not in stored:
        raise StreamError(f"state {SESSION!r} is missing; {whole}")
    rest = {name: tensor for name, tensor in stored.items() if name != SESSION}
    try:
        content = stored[SESSION].cpu().numpy().tobytes()
        digest, text = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
        right = digest == _digest(rest, text)
    # fails for tensors without memory or with a special layout
    except (RuntimeError, TypeError) as error:
        raise StreamError(f"the state cannot be read: {error}; {whole}") from error
    if not right and content.startswith(b"{"):
        raise StreamError(f"an earlier speechkit wrote this state, with no digest; {AGAIN}")
    if not right:
        raise StreamError(f"the state is damaged: it does not agree with its digest; {AGAIN}")
    return text, rest


def check_tensor(name: str, given: Tensor | None, like: Tensor) -> None:
    """Raises StreamError unless `given` is like `like`, without NaN and +infinity."""
    found = "missing" if given is None else f"{given.dtype} {list(given.shape)}"
    wanted = f"{like.dtype} {list(like.shape)}"
    if found != wanted:
        raise StreamError(
            f"state {name!r} is {found}, expected {wanted}; restore it into a stream of the same "
            "model, size and sample rate"
        )
    # a NaN makes the comparison false
    if given is not None and given.is_floating_point() and not (given < torch.inf).all():
        raise StreamError(f"state {name!r} holds NaN or infinity; {AGAIN}")


def checked(values: Any, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """Checks plain data for its keys and types of values; `object` is any type.

    Integers must be −1 or more. Raises StreamError for other data.
    """
    if not isinstance(values, dict) or values.keys() != kinds.keys():
        raise StreamError(f"the state is damaged: it lacks {', '.join(kinds)}; {AGAIN}")
    for name, value in values.items():
        # by exact type, so that True is no number
        if kinds[name] not in (object, type(value)) or (
            type(value) is int and not -1 <= value <= MAX_NUMBER
        ):
            raise StreamError(f"the state is damaged: {name} is no {kinds[name].__name__}; {AGAIN}")
    return values


def remembered(kind: type[T], values: Any) -> T:
    """A dataclass from plain data; raises StreamError unless each field has its type."""
    return kind(**checked(values, {field.name: field.type for field in fields(kind)}))  # type: ignore[arg-type]
