"""The on/off codes of a net's units."""

import torch

from speechkit.models import Model
from speechkit.nn import Chunk, StreamLayer, Taps


def activations(model: Model) -> dict[str, StreamLayer]:
    """A model's activations by name."""
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, StreamLayer) and name.rpartition(".")[2] == "activation"
    }


@torch.no_grad()
def codes(model: Model, features: Chunk) -> dict[str, Chunk]:
    """For each activation, in the order of the net, whether its inputs are above 0.

    `x` is a bool for each unit, `[B, C, T]`; `valid` marks the frames that are real. A stride
    between two activations makes T smaller.
    """
    with Taps(activations(model)) as taps:
        model.score(features)
    return {call.name: Chunk(call.args[0].x > 0, call.args[0].valid) for call in taps.take()}
