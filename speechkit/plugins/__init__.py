"""Plugins: the registry of their components, and the boundary around calls into them."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from speechkit.plugins._registry import CORE, ENTRY_POINT_GROUP, Registry
from speechkit.plugins.checks import calling, offered
from speechkit.plugins.entry import MAKES, Entry, Origin
from speechkit.plugins.loading import PREFIX

__all__ = [
    "CORE",
    "ENTRY_POINT_GROUP",
    "MAKES",
    "PREFIX",
    "Entry",
    "Origin",
    "Registry",
    "calling",
    "components",
    "offered",
    "registry",
    "using",
]


def registry() -> Registry:
    """The process's registry, built on first use."""
    return _INSTEAD[-1] if _INSTEAD else _own()


@contextmanager
def using(other: Registry) -> Iterator[None]:
    """Makes `other` the process's registry for a while."""
    _INSTEAD.append(other)
    try:
        yield
    finally:
        _INSTEAD.remove(other)


_INSTEAD: list[Registry] = []


@cache
def _own() -> Registry:
    return Registry()


def components(kind: str | None = None) -> list[Entry]:
    """All components of a kind, or of every kind, that loaded plugins offer."""
    return registry().components(kind)
