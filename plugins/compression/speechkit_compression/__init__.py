"""Transforms that make models smaller and faster, by name once the package is installed.

Nothing here imports torch.
"""

from speechkit import Component, hookimpl


@hookimpl
def speechkit_transforms() -> list[Component]:
    return []
