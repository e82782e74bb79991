"""Converts config dataclasses to plain data and back, and validates them."""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from speechkit.component import Spec, did_you_mean
from speechkit.errors import ConfigError, SpeechkitError
from speechkit.io.plain import UnfitError, fitted
from speechkit.io.untrusted import UntrustedError, check_plain, parse_json
from speechkit.limits import MAX_NUMBER, MAX_PROCESSES_PER_CPU, MAX_TIME_S, MAX_WIDTH

T = TypeVar("T")


class Config:
    """Base class of config dataclasses: unknown keys and numbers that are not finite are refused.

    Times, whose names end in `_s` or `_ms`, are at most `MAX_TIME_S`. A ConfigError names the
    field. A `__post_init__` of a subclass must call this one first.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}
    stores_none: ClassVar[bool] = True
    """Whether a field that is None is stored."""

    def __post_init__(self) -> None:
        _check_values({field.name: getattr(self, field.name) for field in fields(self)})  # type: ignore[arg-type]


def check_range(
    name: str,
    value: float,
    low: float,
    high: float,
    *,
    whole: bool = False,
    error: type[SpeechkitError] = ConfigError,
) -> None:
    """Raises `error` unless value is a number, a `whole` one if asked, and low <= value <= high."""
    # NaN makes the comparison false, and True is an int
    if isinstance(value, Integral if whole else Real) and not isinstance(value, bool):
        if low <= value <= high:
            return
        # an int may have thousands of digits
        large = isinstance(value, int) and abs(value) > MAX_NUMBER
        shown = "a large number" if large else f"{value:g}"
    else:
        shown = f"{value!r:.40}"
    kind = "a whole number" if whole else "a number"
    raise error(f"{name}={shown}: give {kind} from {low:g} to {high:g}")


def check_processes(name: str, count: int, least: int = 1) -> None:
    """Raises ConfigError for too many processes for this machine."""
    check_range(name, count, least, MAX_PROCESSES_PER_CPU * (os.cpu_count() or 1))


def check_component(kind: str, spec: Spec) -> None:
    """Raises ConfigError for a parameter that is a time or an integer beyond the limits."""
    _check_values(spec.params, f"{kind} {spec.name}: ")
    for name, value in spec.params.items():
        if isinstance(value, int) and not isinstance(value, bool):
            check_range(f"{kind} {spec.name}: {name}", value, -MAX_WIDTH, MAX_WIDTH)
        elif isinstance(value, Spec):
            check_component(f"{kind} {spec.name}: {name}", value)


def _check_values(values: Mapping[str, Any], where: str = "") -> None:
    for name, value in values.items():
        try:
            check_plain([to_dict(value)])
        except UntrustedError as error:
            raise ConfigError(f"{where}{name}: {error}") from error
        if isinstance(value, int | float):
            for unit, per_second in (("_s", 1), ("_ms", 1000)):
                if name.endswith(unit):
                    most = MAX_TIME_S * per_second
                    check_range(f"{where}{name}", value, -most, most)


def to_dict(config: Any, *, complete: bool = False) -> Any:
    """Plain JSON data for a config dataclass: tuples become lists, paths strings.

    None is left out of a config that does not store it, unless the data is to be `complete`.
    """
    plain = partial(to_dict, complete=complete)
    if is_dataclass(config) and not isinstance(config, type):
        given = {field.name: getattr(config, field.name) for field in fields(config)}
        stores_none = complete or getattr(config, "stores_none", True)
        return {k: plain(value) for k, value in given.items() if stores_none or value is not None}
    if isinstance(config, dict):
        return {key: plain(value) for key, value in config.items()}
    if isinstance(config, tuple | list):
        return [plain(value) for value in config]
    return str(config) if isinstance(config, Path) else config


def from_dict(kind: Any, data: Any, where: str = "config", *, any_number: bool = False) -> Any:
    """A config of type `kind`, a dataclass or a union; a ConfigError has the path and the reason.

    `any_number` also allows infinities, NaN and large integers.
    """
    try:
        check_plain(data, any_number=any_number)
        return fitted(kind, data)
    except UntrustedError as error:
        raise ConfigError(f"{where}: {error}") from error
    except UnfitError:
        return _converted(kind, data, where)


def _converted(kind: Any, data: Any, where: str) -> Any:
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        # a value that is no config has no path
        reason = f"{path} - {first['msg']}" if path else first["msg"]
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise ConfigError(f"{where}: {reason}{more}") from error


def override(config: T, assignments: Iterable[str]) -> T:
    """A copy of a config dataclass with `path=value` assignments applied and validated.

    Values are JSON if they parse as JSON and text otherwise: `steps=100`,
    `model.activation=silu`, `model.lookahead=[3,0]`.
    """
    data = to_dict(config, complete=True)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment!r}: write path=value")
        *parents, last = path.split(".")
        target = data
        for key in parents:
            target = _descend(target, key, path)
        _descend(target, last, path)
        target[int(last) if isinstance(target, list) else last] = _value(text)
    changed: T = from_dict(type(config), data, "--set")
    return changed


def write_json(path: Path, data: Any) -> None:
    """Writes indented JSON."""
    text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    # bytes of a path that are not UTF-8 are written as JSON escapes
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


def _descend(target: Any, key: str, path: str) -> Any:
    if isinstance(target, list) and key.isdecimal() and int(key) < len(target):
        return target[int(key)]
    if isinstance(target, dict) and key in target:
        return target[key]
    known: Iterable[str] = target if isinstance(target, dict) else ()
    if isinstance(target, list):
        known = map(str, range(len(target)))
    raise ConfigError(f"--set {path}: no {key!r} there. {did_you_mean(key, known)}")


def _value(text: str) -> Any:
    try:
        return parse_json(text)
    except UntrustedError:
        return text
