"""The on/off codes of a net's units, and those of points on a path."""

from collections.abc import Callable

import torch
from torch import Tensor

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


def path(start: Tensor, end: Tensor, at: Tensor) -> Tensor:
    """Features start + t (end − start) for each t in `at`: `[B, F, T]`, `[P]` → `[B, P, F, T]`."""
    one, other = start.transpose(1, 2)[:, None], end.transpose(1, 2)[:, None]
    return torch.lerp(one, other, at.to(one)[:, None, None]).transpose(2, 3)


def codes_between(
    along: Callable[[Tensor], Tensor], points: int, depth: int
) -> tuple[Tensor, Tensor]:
    """Points from 0 to 1, in order, and their codes `[P, N]`; `along` maps points `[P]` to codes.

    The points are evenly spaced at first. Then each interval whose ends differ in more than one bit
    is halved, up to `depth` times.
    """
    at = torch.linspace(0, 1, points, dtype=torch.float64)
    found = along(at)
    for _ in range(depth):
        wide = (found[1:] != found[:-1]).sum(1) > 1
        if not wide.any():
            break
        between = (at[1:] + at[:-1])[wide.cpu()] / 2
        at, order = torch.cat([at, between]).sort()
        found = torch.cat([found, along(between)])[order]
    return at, found
