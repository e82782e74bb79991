"""Config dataclasses to plain data and back, validated at this edge only."""

import json
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from speechkit.component import did_you_mean
from speechkit.errors import ConfigError

T = TypeVar("T")


def to_dict(config: Any) -> Any:
    """Plain JSON data for a config dataclass: tuples become lists, paths strings."""
    if is_dataclass(config) and not isinstance(config, type):
        return {field.name: to_dict(getattr(config, field.name)) for field in fields(config)}
    if isinstance(config, dict):
        return {key: to_dict(value) for key, value in config.items()}
    if isinstance(config, tuple | list):
        return [to_dict(value) for value in config]
    return str(config) if isinstance(config, Path) else config


def from_dict(kind: Any, data: Any, where: str = "config") -> Any:
    """A config of type `kind`, a dataclass or a union; ConfigError names path and reason."""
    try:
        return TypeAdapter(kind).validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise ConfigError(f"{where}: {path} - {first['msg']}{more}") from error


def override(config: T, assignments: Iterable[str]) -> T:
    """A copy of a config dataclass with `path=value` assignments applied and validated.

    Values are JSON where they parse as JSON and text otherwise: `steps=100`,
    `model.activation=silu`, `model.lookahead=[3,0]`.
    """
    data = to_dict(config)
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
    return from_dict(type(config), data, "--set")


def write_json(path: Path, data: Any) -> None:
    """Writes JSON that a person can read."""
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


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
        return json.loads(text)
    except ValueError:
        return text
