"""Converts a session's state to named arrays, as safetensors stores them, and back."""

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from speechkit.errors import StreamError
from speechkit.io.arrays import DIGEST_BYTES, array_of, digest_of, is_array
from speechkit.io.untrusted import UntrustedError, parse_json
from speechkit.limits import MAX_NUMBER

T = TypeVar("T")
State = dict[str, NDArray[Any]]
"""Named arrays, for `safetensors.numpy`."""

SESSION = "session"
"""The name of the array that holds a digest of everything and, as JSON, all other values."""
ASIDE = "tensor"
"""The key in that JSON that refers to an array by name."""
AGAIN = "begin the session anew"


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


def _resumed(kind: Any, made_with: tuple[Any, ...], state: State) -> Any:
    session = kind(*made_with)
    session.state = state
    return session


def pack(arrays: State, plain: dict[str, Any], settings: dict[str, Any]) -> State:
    """Copies of arrays, together with plain data that may contain arrays.

    `settings` are those that must be equal to restore the state.
    """
    copies = {name: x.copy() for name, x in arrays.items()}

    def set_aside(numbers: Any) -> dict[str, str]:
        name = f"{SESSION}.{len(copies)}"
        copies[name] = array_of(numbers).copy()
        return {ASIDE: name}

    text = json.dumps({"settings": settings, "plain": plain}, default=set_aside)
    return seal(copies, text.encode())


def seal(arrays: State, text: bytes) -> State:
    """The arrays and their JSON, with a digest of everything."""
    content = digest_of(arrays, text) + text
    return {**arrays, SESSION: np.frombuffer(content, np.uint8).copy()}


def unpack(
    stored: Mapping[str, Any], like: State, settings: dict[str, Any]
) -> tuple[State, dict[str, Any]]:
    """The arrays and the plain data that `pack` was given; `stored` may hold torch tensors too.

    Raises StreamError if the state is incomplete or changed, if its session had other settings, or
    if its arrays are not finite or differ from `like` in shape or type.
    """
    text, rest = _opened(stored)
    try:
        # scores may be -Infinity, and keys have 64 bits
        data = parse_json(text, any_number=True)
    except UntrustedError as error:
        raise StreamError(f"the state is damaged: {error}; {AGAIN}") from error
    about = checked(data, {"settings": dict, "plain": dict})
    was = about["settings"]
    unlike = [name for name, own in settings.items() if was.get(name) != own]
    if "engine" in unlike and isinstance(was.get("engine"), str):
        raise StreamError(
            f"this state is of the {was['engine']:.20} engine, and this session has the "
            f"{settings['engine']} one; make the session as that one was (sk.ops.use_impl, "
            "SPEECHKIT_IMPL, the model's device and type, window_s), or begin it anew"
        )
    if unlike:
        raise StreamError(
            f"this state is of another {' and '.join(unlike)}; restore it into a stream of the "
            "same model, sample rate and settings"
        )
    for name, x in like.items():
        check_array(name, rest.get(name), x)
    copies = {name: rest[name].copy() for name in like}

    def put_back(value: Any) -> Any:
        if isinstance(value, list):
            return [put_back(item) for item in value]
        if not isinstance(value, dict):
            return value
        if ASIDE in value:
            name = value[ASIDE]
            if not isinstance(name, str) or name not in rest:
                raise StreamError(f"the state is damaged: it lacks {name!r}; {AGAIN}")
            return rest[name].copy()
        return {key: put_back(item) for key, item in value.items()}

    return copies, put_back(about["plain"])


def _opened(stored: Mapping[str, Any]) -> tuple[bytes, State]:
    """The JSON and the arrays of a state; raises StreamError if the digest is wrong."""
    whole = "assign all that `stream.state` gave, as safetensors.numpy loads it"
    if not isinstance(stored, Mapping) or not all(map(is_array, stored.values())):
        raise StreamError(f"a state is a dict of names and arrays; {whole}")
    if SESSION not in stored:
        raise StreamError(f"state {SESSION!r} is missing; {whole}")
    try:
        rest = {name: array_of(x) for name, x in stored.items()}
        content = rest.pop(SESSION).tobytes()
        digest, text = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
        right = digest == digest_of(rest, text)
    # fails for tensors without memory or with a special layout, and arrays of objects
    except (RuntimeError, TypeError, ValueError) as error:
        raise StreamError(f"the state cannot be read: {error}; {whole}") from error
    if not right and content.startswith(b"{"):
        raise StreamError(f"an earlier speechkit wrote this state, with no digest; {AGAIN}")
    if not right:
        raise StreamError(f"the state is damaged: it does not agree with its digest; {AGAIN}")
    return text, rest


def check_array(name: str, given: Any, like: NDArray[Any]) -> None:
    """Raises StreamError unless `given` is like `like`, without NaN and +infinity."""
    known = isinstance(given, np.ndarray)
    found = f"{given.dtype} {list(given.shape)}" if known else "missing"
    wanted = f"{like.dtype} {list(like.shape)}"
    if found != wanted:
        raise StreamError(
            f"state {name!r} is {found}, expected {wanted}; restore it into a stream of the same "
            "model, size and sample rate"
        )
    # a NaN makes the comparison false
    if given.dtype.kind == "f" and not (given < np.inf).all():
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
