"""Parts of a NeMo config: values by key with defaults, and errors for unsupported values."""

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from speechkit.errors import CheckpointError

MOST = 1 << 16
"""The largest size in a config: the length of a table, or a number of channels or labels."""
MOST_LINKS = 16


class Section:
    """One mapping of a config. A key may be read once; `done` raises for keys that were not read.

    `around` are the mappings and lists that contain it, the whole config first. A key that is null
    counts as absent.
    """

    def __init__(self, values: Mapping[str, Any], where: str, around: tuple[Any, ...]) -> None:
        self.values, self.where, self.around = dict(values), where, (*around, values)

    @classmethod
    def of(cls, root: Mapping[str, Any], name: str, file: str) -> "Section":
        """The part `name`, written with `cls` and `params` or with `_target_`."""
        values = root.get(name)
        params = values.get("params") if isinstance(values, Mapping) else None
        if not isinstance(values, Mapping) or not isinstance(params or {}, Mapping):
            raise CheckpointError(f"{file}: the config has no part {name!r} that can be read")
        around = (root, values) if params else (root,)
        section = cls(params or values, f"{file}: {name}", around)
        section.values = {**{k: v for k, v in values.items() if k != "params"}, **(params or {})}
        return section

    @property
    def target(self) -> str:
        """The name of the part's class, without its module."""
        target = self.values.pop("cls", None)
        target = self.values.pop("_target_", target)
        if not isinstance(target, str):
            raise CheckpointError(f"{self.where} names no class; give _target_ or cls")
        return target.rpartition(".")[2]

    def get(self, key: str, default: Any = None) -> Any:
        """The value with `${...}` resolved; `default` if it is absent."""
        value = _resolved(self.around, self.values.pop(key, None))
        return default if value is None else value

    def is_null(self, key: str) -> bool:
        """True if the key is present and null."""
        return key in self.values and self.values[key] is None

    def integer(
        self, key: str, default: int | None = None, least: int = 1, most: int = MOST
    ) -> int:
        """An integer from `least` to `most`; a list of one element counts as that element."""
        value = self.get(key, default)
        value = value[0] if isinstance(value, list) and len(value) == 1 else value
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            self.refuse(key, value, f"give a whole number from {least} to {most}")
        return value

    def number(self, key: str, default: float) -> float:
        """A finite number."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9:
            self.refuse(key, value, "give a number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key, default)
        if not isinstance(value, bool):
            self.refuse(key, value, "give true or false")
        return value

    def only(self, **known: Any) -> None:
        """Raises CheckpointError for keys with other values than those given here or null."""
        for key, neutral in known.items():
            value = self.get(key)
            if value is not None and value != neutral:
                self.refuse(key, value, f"speechkit has {key}={_text(neutral)} only")

    def ignore(self, *keys: str) -> None:
        """Marks keys as read that only training needs."""
        for key in keys:
            self.values.pop(key, None)

    def done(self) -> None:
        for key, value in self.values.items():
            if value is not None:
                self.refuse(str(key), value, "speechkit does not know this key")

    def refuse(self, key: str, value: Any, reason: str) -> NoReturn:
        """Raises CheckpointError that names the key."""
        raise CheckpointError(f"{self.where}: {key[:80]}={_text(value)}; {reason}")


def _resolved(around: tuple[Any, ...], value: Any) -> Any:
    """Resolves a value such as `${model.labels}` or, relative to its place, `${..x}`."""
    for _ in range(MOST_LINKS):
        link = re.fullmatch(r"\$\{(\.*)(?:model\.)?([\w.]+)\}", str(value)[:200])
        if not isinstance(value, str) or link is None or len(link[1]) > len(around):
            return value
        value = around[-len(link[1])] if link[1] else around[0]
        for key in link[2].split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _text(value: Any) -> str:
    """A short text for a value, as a config would show it."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a mapping"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**18:
        return "a huge number"
    return json.dumps(value, ensure_ascii=False, default=str)[:80]
