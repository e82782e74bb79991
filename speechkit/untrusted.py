"""One reader for JSON from outside: bounded in size and depth, with finite numbers only."""

import json
from pathlib import Path
from typing import Any

from speechkit.limits import MAX_JSON_BYTES, MAX_JSON_DEPTH, MAX_NUMBER


class UntrustedError(ValueError):
    """Data that does not parse or is beyond the limits, in one line without the source's name."""


def parse_json(text: str | bytes) -> Any:
    """The data in a JSON text; UntrustedError where it is damaged or beyond `speechkit.limits`."""
    if len(text) > MAX_JSON_BYTES:
        raise UntrustedError(f"it has {len(text)} bytes, more than {MAX_JSON_BYTES}")
    try:
        data = json.loads(text)
    except RecursionError as error:
        raise UntrustedError(f"it is nested deeper than {MAX_JSON_DEPTH} levels") from error
    # UnicodeDecodeError and JSONDecodeError, and integers of more than 4300 digits
    except ValueError as error:
        raise UntrustedError(f"it is not JSON: {error}") from error
    check_plain(data)
    return data


def read_json(path: Path) -> Any:
    """The data in a JSON file; UntrustedError as `parse_json`, OSError where it cannot be read."""
    with path.open("rb") as file:
        return parse_json(file.read(MAX_JSON_BYTES + 1))


def check_plain(data: Any) -> None:
    """Raises UntrustedError for parsed data that is too deep or holds a number out of range."""
    level = [data]
    for _ in range(MAX_JSON_DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below += value.values()
            elif isinstance(value, list):
                below += value
            elif isinstance(value, int | float) and not abs(value) <= MAX_NUMBER:
                # an int may have thousands of digits
                shown = "a number" if isinstance(value, int) else f"{value:g}"
                raise UntrustedError(
                    f"it holds {shown} outside ±{MAX_NUMBER:g}; give a finite number"
                )
        if not below:
            return
        level = below
    raise UntrustedError(f"it is nested deeper than {MAX_JSON_DEPTH} levels")
