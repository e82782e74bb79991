"""Reads plain data that needs no conversion, such as JSON, as dataclasses.

pydantic reads other data; its import takes longer than most commands.
"""

from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


class UnfitError(Exception):
    """Data is of another type or needs conversion, or the type is not supported here."""


def fitted(kind: Any, data: Any) -> Any:
    """The value that pydantic returns for data that needs no conversion; UnfitError for other data.

    `kind` is a dataclass, or the type of a field or of its items. A float may be given as an
    integer, and a tuple as a list.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any:
        return data
    if is_dataclass(kind) and not hasattr(kind, "__get_pydantic_core_schema__"):
        return _made(kind, data)
    if origin is Literal:
        return _one_of([part for part in parts if type(part) is type(data) and part == data])
    if origin in (Union, UnionType):
        if data is None and NoneType in parts:
            return None
        return fitted(_one_of([part for part in parts if part is not NoneType]), data)
    if origin in (list, tuple) and type(data) is list:
        if origin is list or parts[1:] == (...,):
            return origin(fitted(parts[0], item) for item in data)
        if len(data) == len(parts):
            return tuple(map(fitted, parts, data))
    elif origin is dict and type(data) is dict:
        return {fitted(parts[0], key): fitted(parts[1], value) for key, value in data.items()}
    elif kind is float and type(data) is int:
        return _called(float, data)
    elif kind is str and type(data) is str:
        # a lone surrogate cannot be encoded and is refused
        _called(data.encode)
        return data
    elif kind in (bool, float, int) and type(data) is kind:
        return data
    raise UnfitError


def _made(kind: Any, data: Any) -> Any:
    types = _types(kind)
    needed = {
        field.name
        for field in fields(kind)
        if field.default is MISSING and field.default_factory is MISSING
    }
    if type(data) is not dict or not needed <= data.keys() <= types.keys():
        raise UnfitError
    return _called(kind, **{name: fitted(types[name], value) for name, value in data.items()})


@cache
def _types(kind: Any) -> dict[str, Any]:
    hints = _called(get_type_hints, kind, include_extras=True)
    return {field.name: hints[field.name] for field in fields(kind) if field.init}


def _called(function: Any, *args: Any, **kw: Any) -> Any:
    """The result of a call; pydantic makes a message of these errors."""
    try:
        return function(*args, **kw)
    except (ValueError, TypeError, AssertionError, NameError, OverflowError) as error:
        raise UnfitError from error


def _one_of(found: list[Any]) -> Any:
    if len(found) != 1:
        raise UnfitError
    return found[0]
