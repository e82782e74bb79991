"""Parameters that layers exempt from weight decay or from the model's init."""

from typing import Literal

from torch import nn


def exempt(model: nn.Module, what: Literal["undecayed", "self_initialized"]) -> set[int]:
    """The `id` of each parameter that a layer of the model names in its attribute `what`.

    A layer names its parameters, or submodules, which stand for all of their parameters.
    """
    found: set[int] = set()
    for layer in model.modules():
        for name in getattr(layer, what, ()):
            value = getattr(layer, name)
            inside = value.parameters() if isinstance(value, nn.Module) else [value]
            found.update(map(id, inside))
    return found
