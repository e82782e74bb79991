"""Heads for speechkit."""

from speechkit import Component, hookimpl


@hookimpl
def speechkit_heads() -> list[Component]:
    return []
