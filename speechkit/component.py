"""A component (what a plugin offers) and a spec (how a config names one)."""

import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from speechkit.errors import ComponentError
from speechkit.io.untrusted import UntrustedError, parse_json
from speechkit.limits import MAX_NESTED_COMPONENTS

Time = Literal["frame", "causal", "lookahead", "utterance"]


@dataclass(frozen=True, kw_only=True)
class Component:
    """One thing a plugin offers under a name; listing it imports nothing but the plugin module.

    `name` is snake_case and unique within plugin and kind. `factory` is a callable, or
    `"package.module:attribute"`, imported on first use. `time` is what an output frame may read:
    its own frame, the past, a bounded future, or the whole utterance. `foldable` is True if it has
    a `fuse()`. `parts` maps the parameters that name components to their kinds, such as `{"pool":
    "pool"}`. `exports` are its forms outside torch: "torch.export", "onnx". `example` are the
    parameters with which checks build it. `needs` are values that the config of a net must have for
    a method, exporter, probe or transform, such as `{"activation": "velu"}`. `exempt` maps checks
    that it is expected to fail to the reasons. `task` is the task of a head: a component of kind
    task, such as "ctc" or "acme/angle:unit=deg".
    """

    name: str
    factory: Callable[..., Any] | str
    summary: str
    formula: str = ""
    paper: str = ""
    time: Time = "frame"
    foldable: bool = False
    in_factor: int = 1
    parts: Mapping[str, str] = field(default_factory=dict)
    exports: frozenset[str] = frozenset({"torch"})
    example: Mapping[str, Any] = field(default_factory=dict)
    needs: Mapping[str, Any] = field(default_factory=dict)
    exempt: Mapping[str, str] = field(default_factory=dict)
    task: str = ""


@dataclass(frozen=True, kw_only=True)
class Moved:
    """A former name of a component: `to` is "plugin/name", its new place.

    The plugin that had it lists this in its place, so that configs with the former name still load.
    """

    name: str
    to: str


@dataclass(frozen=True)
class Spec:
    """A component's name and parameters in a config.

    Three equal spellings: `"swish:beta=1.5,learn=true"`,
    `{"name": "swish", "params": {"beta": 1.5, "learn": true}}` and `Spec("swish", {...})`.
    A name may be qualified by its plugin: `"acme/snake:alpha=0.5"`. A parameter may be a spec:
    `"clip:pool={acme/peak:share=0.1}"`.
    """

    name: str
    params: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        plain = {key: _plain(value) for key, value in self.params.items()}
        object.__setattr__(self, "params", plain)

    @classmethod
    def parse(cls, value: "Spec | str | Mapping[str, Any]") -> "Spec":
        """Reads any of the three spellings; raises ComponentError with the expected form."""
        if isinstance(value, Spec):
            return value
        if isinstance(value, str):
            return cls._parse_string(value)
        if isinstance(value, Mapping) and set(value) <= {"name", "params"}:
            name, params = value.get("name"), value.get("params") or {}
            if isinstance(name, str) and isinstance(params, Mapping):
                return cls(name, dict(params))
        raise ComponentError(
            f"cannot read component {value!r}; write 'name', 'name:key=value,key=value' "
            f"or {{'name': ..., 'params': {{...}}}}"
        )

    @classmethod
    def _parse_string(cls, text: str, depth: int = 0) -> "Spec":
        if depth > MAX_NESTED_COMPONENTS:
            raise ComponentError(
                f"components are nested deeper than {MAX_NESTED_COMPONENTS} levels"
            )
        name, colon, rest = text.partition(":")
        params: dict[str, Any] = {}
        for item in _items(rest, text) if colon else []:
            key, equals, value = item.partition("=")
            if not equals or not key.strip().isidentifier() or key.strip() in params:
                raise ComponentError(
                    f"cannot read {item!r} in component {text!r}; write name:key=value,key=value, "
                    "or only the component's name"
                )
            value = value.strip()
            nested = value.startswith("{")
            params[key.strip()] = (
                cls._parse_string(value[1:-1], depth + 1) if nested else _scalar(value)
            )
        if not all(part.isidentifier() for part in name.strip().split("/", 1)):
            raise ComponentError(f"{name!r} is not a component name; write name or plugin/name")
        return cls(name.strip(), params)

    def __str__(self) -> str:
        if not self.params:
            return self.name
        values = (f"{k}={_text(v)}" for k, v in self.params.items())
        return f"{self.name}:{','.join(values)}"


NESTED = re.compile(r"[^,={]*=\s*\{")
"""A parameter up to the brace that begins a component."""
BRACES = re.compile("[{}]")
END = re.compile(r"\s*(,|$)")


def _items(text: str, whole: str) -> Iterator[str]:
    """The parameters `key=value` between commas, not those of a component in braces."""
    start = 0
    while True:
        begun = NESTED.match(text, start)
        end = _behind_braces(text, begun.end() - 1, whole) if begun else start
        comma = text.find(",", end)
        yield text[start : comma if comma >= 0 else None]
        if comma < 0:
            return
        start = comma + 1


def _behind_braces(text: str, start: int, whole: str) -> int:
    """The end of the component whose brace is at `start`; ComponentError if it is not closed."""
    depth = 0
    for brace in BRACES.finditer(text, start):
        depth += 1 if brace[0] == "{" else -1
        if not depth:
            if not END.match(text, brace.end()):
                break
            return brace.end()
    raise ComponentError(
        f"cannot read the braces in component {whole!r}; write name:key={{name:key=value}}"
    )


def _plain(value: Any) -> Any:
    """A mapping with a component's name as a Spec, and a number of numpy or torch as Python's."""
    if getattr(value, "shape", None) == ():
        return value.item()
    is_spec = isinstance(value, Mapping) and {"name"} <= set(value) <= {"name", "params"}
    return Spec.parse(value) if is_spec else value


def _scalar(text: str) -> Any:
    # lists stay text at any depth
    if text.startswith("["):
        return text
    try:
        return parse_json(text, any_number=True)
    except UntrustedError:
        return text


def _text(value: Any) -> str:
    if isinstance(value, Spec):
        return f"{{{value}}}"
    if not isinstance(value, str):
        return json.dumps(value)
    plain = not set(",{}") & set(value) and _scalar(value.strip()) == value
    if plain:
        return value
    # quoted if it would be parsed as something else, so that it is not split
    return re.sub("[,{}]", lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value))


def did_you_mean(name: str, known: Iterable[str], also: Iterable[str] = ()) -> str:
    """A sentence with the closest word of `known` and `also`, and then all of `known`."""
    known = sorted(known)
    close = difflib.get_close_matches(name, [*known, *also], n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return f"{hint}Known: {', '.join(known) or 'none'}"
