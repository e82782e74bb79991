"""Reads JSON, YAML and tar files from outside, with limits on size and depth."""

import json
from collections import Counter
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any

from speechkit.limits import (
    MAX_JSON_BYTES,
    MAX_JSON_DEPTH,
    MAX_JSON_VALUES,
    MAX_NUMBER,
    MAX_TENSORS_HEADER_BYTES,
    MAX_YAML_CHARACTERS,
    MAX_YAML_VALUES,
)


class UntrustedError(ValueError):
    """Data does not parse or exceeds the limits; a one-line message without the source's name."""


class Limited:
    """A tar file that is read in pieces of at most `most` bytes.

    A header may declare a very long one after it, which tarfile would read at once.
    """

    def __init__(self, file: Any, most: int) -> None:
        self.file, self.most = file, most
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        """The next bytes; raises tarfile.ReadError if `size` is too large."""
        if size > self.most:
            from tarfile import ReadError

            raise ReadError(f"a header of {size:,} bytes")
        data: bytes = self.file.read(size)
        return data


def parse_json(text: str | bytes, *, any_number: bool = False, most: int = MAX_JSON_BYTES) -> Any:
    """The data in a JSON text; raises UntrustedError if it is damaged or exceeds the limits.

    Duplicate keys are refused. `any_number` also allows infinities, NaN and integers of up to 4300
    digits, which speechkit's own states contain. The text has at most `most` bytes.
    """
    _check_size(text, most)
    # counted before parsing, since an empty list takes 20 times the memory of its text
    signs: Any = (b",", b"[", b"{") if isinstance(text, bytes) else (",", "[", "{")
    if sum(map(text.count, signs)) > MAX_JSON_VALUES:
        raise UntrustedError(f"it holds more than {MAX_JSON_VALUES:,} values")
    try:
        data = json.loads(text, object_pairs_hook=_object)
    except RecursionError as error:
        raise UntrustedError(f"it is nested deeper than {MAX_JSON_DEPTH} levels") from error
    except UntrustedError:
        raise
    # UnicodeDecodeError and JSONDecodeError, and integers of more than 4300 digits
    except ValueError as error:
        raise UntrustedError(f"it is not JSON: {error}") from error
    check_plain(data, any_number=any_number)
    return data


def read_json(path: Path, *, any_number: bool = False, most: int = MAX_JSON_BYTES) -> Any:
    """The data in a JSON file; raises UntrustedError like `parse_json`, or OSError."""
    with path.open("rb") as file:
        return parse_json(file.read(most + 1), any_number=any_number, most=most)


def check_tensors_header(path: Path) -> None:
    """Raises UntrustedError for a safetensors file with too long a header, or OSError."""
    # safetensors reports every file that it cannot open as missing
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
    if MAX_TENSORS_HEADER_BYTES < header_bytes <= path.stat().st_size:
        raise UntrustedError(
            f"it has a header of {header_bytes:,} bytes, more than "
            f"{MAX_TENSORS_HEADER_BYTES:,}; it is not a model file"
        )


def parse_yaml(data: bytes) -> Any:
    """The data in a YAML document with numbers of any size; UntrustedError as in `parse_json`.

    Aliases count as their contents.
    """
    # only archives of other toolkits hold YAML
    import yaml

    class Loader(yaml.SafeLoader):
        """Stops reading if a document is too deep or too long."""

        depth = values = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            self.depth += 1
            self.values += 1
            if self.depth > MAX_JSON_DEPTH or self.values > MAX_YAML_VALUES:
                _refuse_size(self.depth)
            node = super().compose_node(parent, index)
            self.depth -= 1
            # parsing numbers such as 1:30:00 takes time with the square of their length
            if (
                isinstance(node, yaml.ScalarNode)
                and node.tag != "tag:yaml.org,2002:str"
                and len(node.value) > MAX_YAML_CHARACTERS
            ):
                raise UntrustedError(f"it has a number of {len(node.value):,} characters")
            if isinstance(node, yaml.MappingNode):
                keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
                _check_keys((key.tag, key.value) for key in keys)
            return node

    _check_size(data, MAX_JSON_BYTES)
    try:
        # the loader's constructor decodes the first bytes
        loader = Loader(data)
        root = loader.get_single_node()
        if root is None:
            return None
        if _values(root, {}) > MAX_YAML_VALUES:
            _refuse_size(0)
        parsed = loader.construct_document(root)
    except UntrustedError:
        raise
    # yaml raises errors of many types if a tag does not fit its value
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UntrustedError(f"it is not plain YAML: {reason}") from error
    check_plain(parsed, any_number=True)
    return parsed


def _check_size(text: str | bytes, most: int) -> None:
    if len(text) > most:
        raise UntrustedError(f"it has {len(text)} bytes, more than {most}")


def check_plain(data: Any, *, any_number: bool = False) -> None:
    """Raises UntrustedError for parsed data that is too deep or holds a number out of range."""
    level = [data]
    for _ in range(MAX_JSON_DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below += value.values()
            elif isinstance(value, list):
                below += value
            elif any_number:
                continue
            elif isinstance(value, int | float) and not abs(value) <= MAX_NUMBER:
                # an int may have thousands of digits
                shown = "a number" if isinstance(value, int) else f"{value:g}"
                raise UntrustedError(
                    f"it holds {shown} outside ±{MAX_NUMBER:g}; give a finite number"
                )
        if not below:
            return
        level = below
    _refuse_size(MAX_JSON_DEPTH + 1)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        _check_keys((None, key) for key, _ in pairs)
    return made


def _check_keys(keys: Iterable[tuple[Hashable, str]]) -> None:
    """Raises UntrustedError for a duplicate key, since one of its values would be lost."""
    for (_, key), times in Counter(keys).items():
        if times > 1:
            raise UntrustedError(f"it has the key {key[:80]!r} twice; leave one")


def _refuse_size(depth: int) -> None:
    if depth > MAX_JSON_DEPTH:
        raise UntrustedError(f"it is nested deeper than {MAX_JSON_DEPTH} levels")
    raise UntrustedError(f"it holds more than {MAX_YAML_VALUES} values, aliases written out")


def _values(node: Any, seen: dict[int, float]) -> float:
    """The number of values in a YAML node with aliases expanded; infinite for a cycle."""
    if id(node) not in seen:
        seen[id(node)] = float("inf")
        parts = node.value if isinstance(node.value, list) else []
        flat = [x for part in parts for x in (part if isinstance(part, tuple) else (part,))]
        seen[id(node)] = 1 + sum(_values(x, seen) for x in flat)
    return seen[id(node)]
