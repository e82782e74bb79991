"""Activations as functions of one number."""

import torch
from torch import Tensor

from speechkit.component import Spec
from speechkit.errors import ComponentError
from speechkit.nn import Chunk, StreamLayer, as_layer
from speechkit.plugins import registry


def elementwise(asker: str, activation: Spec | str, instead: str) -> StreamLayer:
    """The activation for one channel, in float64 and in evaluation.

    Raises ComponentError, which names `asker` and what to give `instead`, unless the activation
    maps each number by itself and without chance.
    """
    spec = Spec.parse(activation)
    component = registry().find("activation", spec.name).component
    if component.in_factor != 1 or component.time != "frame":
        raise ComponentError(f"{asker}: {spec} is not elementwise; give {instead}")
    layer = as_layer(registry().build("activation", spec, 1), 1).double().eval()
    points = torch.linspace(-1, 1, 9, dtype=torch.float64)
    if not torch.equal(applied(layer, points), applied(layer, points)):
        raise ComponentError(f"{asker}: {spec} is random; give {instead}")
    return layer


def applied(layer: StreamLayer, x: Tensor) -> Tensor:
    """The activation of each number of a tensor of any shape."""
    y: Tensor = layer(Chunk.of(x.reshape(1, 1, -1))).x
    return y.reshape(x.shape)
