"""Replaces fast forms of layers by simple ones that every runtime computes equally."""

import copy
from typing import TypeVar

from torch import nn

from speechkit.nn import Serial, describes
from speechkit.nn.fuse import fold_norms

M = TypeVar("M", bound=nn.Module)


def simplified(model: M) -> M:
    """A copy with each layer's `exportable()` form, and with norms folded into the weights."""
    simple: M = _simplified(copy.deepcopy(model), {})  # type: ignore[assignment]
    return simple


def _simplified(module: nn.Module, done: dict[nn.Module, nn.Module]) -> nn.Module:
    if module not in done:
        if isinstance(module, Serial):
            fold_norms(module)
        for name, child in module.named_children():
            setattr(module, name, _simplified(child, done))
        known = describes(module, "exportable")
        done[module] = module.exportable() if known else module  # type: ignore[operator]
    return done[module]
