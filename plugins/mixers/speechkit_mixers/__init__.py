"""Layers that mix over time for speechkit: `mixer="retention"`, `block="trec"`.

Nothing here imports torch; the designs are in the modules beside this one.
"""

from speechkit import Component, hookimpl


@hookimpl
def speechkit_mixers() -> list[Component]:
    return []
