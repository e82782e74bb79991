"""Chooses the implementation of an op: the requested one, or the fastest that is possible."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any, NamedTuple

import torch

from speechkit.component import did_you_mean
from speechkit.errors import ConfigError
from speechkit.implementation import AUTO, asked

NAMES = ("cpu", "numba", "triton", "torch", "reference")
"""Implementations, the fastest first; an op may lack some of them."""


class Choice(NamedTuple):
    """The implementation that an op runs, and why not a faster one."""

    op: str
    impl: str
    refused: Mapping[str, str]
    layer: str = ""

    def __str__(self) -> str:
        why = "".join(f"; not {name}: {reason}" for name, reason in self.refused.items())
        return f"{self.layer or self.op}: {self.op + ' ' if self.layer else ''}by {self.impl}{why}"


def choose(implementations: Mapping[str, ModuleType], impl: str | None, *operands: Any) -> Any:
    """The module that `decide` names; while torch compiles, that of torch's own operations."""
    if torch.compiler.is_compiling() and "torch" in implementations:
        return implementations["torch"]
    return implementations[decide("", implementations, impl, *operands).impl]


def decide(
    op: str, implementations: Mapping[str, ModuleType], impl: str | None, *operands: Any
) -> Choice:
    """The implementation to use for operands (tensors or shapes).

    "auto", or a name that only other ops have, takes the first of `implementations` that supports
    the operands. Raises ConfigError where the requested one does not exist or does not support
    them, or none does.
    """
    name = asked(impl)
    if name not in (AUTO, *NAMES):
        raise ConfigError(f"no implementation {name!r}. {did_you_mean(name, NAMES)}")
    if name in implementations:
        if reason := implementations[name].unsupported(*operands):
            raise ConfigError(f"implementation {name!r}: {reason}; use 'auto'")
        return Choice(op, name, {})
    refused: dict[str, str] = {}
    for candidate, module in implementations.items():
        reason = module.unsupported(*operands)
        if reason is None:
            return Choice(op, candidate, refused)
        refused[candidate] = reason
    raise ConfigError("no implementation: " + "; ".join(f"{n}: {r}" for n, r in refused.items()))
