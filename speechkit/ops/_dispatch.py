"""Which implementation of an op runs: the one asked for, or the fastest that can."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any

from torch import Tensor

from speechkit.component import did_you_mean
from speechkit.errors import ConfigError

AUTO = "auto"
FROM_ENVIRONMENT = os.environ.get("SPEECHKIT_IMPL", AUTO)
_asked: ContextVar[str | None] = ContextVar("impl", default=None)


@contextmanager
def use_impl(name: str) -> Iterator[None]:
    """Within the block, ops run their implementation `name`, or say why they cannot."""
    token = _asked.set(name)
    try:
        yield
    finally:
        _asked.reset(token)


def asked(impl: str | None = None) -> str:
    """The name asked for: `impl`, else that of `use_impl`, else SPEECHKIT_IMPL, else "auto"."""
    return impl or _asked.get() or FROM_ENVIRONMENT


def choose(implementations: Mapping[str, ModuleType], impl: str | None, *tensors: Tensor) -> Any:
    """The module to use for these tensors, the one asked for.

    "auto" takes the first of `implementations` that supports the tensors. Raises ConfigError where
    the one asked for does not exist or does not support them.
    """
    name = asked(impl)
    if name != AUTO:
        if name not in implementations:
            raise ConfigError(f"no implementation {name!r}. {did_you_mean(name, implementations)}")
        if reason := implementations[name].unsupported(*tensors):
            raise ConfigError(f"implementation {name!r}: {reason}; use 'auto'")
        return implementations[name]
    return next(module for module in implementations.values() if not module.unsupported(*tensors))
