"""Counts the ReLUs of a net."""

import re
from collections.abc import Callable
from functools import partial
from itertools import islice
from math import prod

import torch
from torch import Tensor, nn

from speechkit.models import Model
from speechkit.nn import FrameWise
from speechkit.probes import Examples
from speechkit.transforms import check_components
from speechkit_activations.adaptive import ReluOrPoly
from speechkit_activations.sparsity import calls


def relus() -> Callable[[Model, Examples], dict[str, Tensor]]:
    """A probe of the ReLUs that a net computes, and of the switches of `relu_or_poly` that are on.

    `NAME` is their number in one activation for each frame of scores, `per_frame` that of all, and
    `per_s` that for each second of sound. The stack must be `serial`. Jha et al., DeepReDuce,
    arXiv:2103.01396.
    """

    def probe(model: Model, examples: Examples) -> dict[str, Tensor]:
        counts = count(model, examples)
        total = sum(counts.values())
        found = {"per_frame": total, "per_s": total / model.frame_s, **counts}
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in found.items()}

    return probe


@torch.no_grad()
def count(model: Model, examples: Examples) -> dict[str, int]:
    """The ReLUs of each activation for each frame of scores; the first batch gives the widths."""
    check_components("relus", model.config, {"stack": ("core/serial",)})
    ((_, features),) = islice(examples, 1)
    widths = {
        name: given.x.shape[1]
        for name, given, _ in calls(model, partial(model.score, features))
        if name.endswith("activation")
    }
    return {
        name: _channels(model.get_submodule(name), width) * frames(model, name)
        for name, width in widths.items()
    }


def frames(model: Model, name: str) -> int:
    """The frames of a layer of the stem or the encoder for each frame of scores."""
    found = re.match(r"encoder\.(\d+)", name)
    row = int(found[1]) + 1 if found else 0
    return prod(later.stride for later, _ in model.config.rows()[row + 1 :])


def _channels(layer: nn.Module, width: int) -> int:
    """The channels, of `width`, in which a layer computes ReLU."""
    if isinstance(layer, ReluOrPoly):
        return int(layer.on.sum())
    return width if isinstance(layer, FrameWise) and isinstance(layer.module, nn.ReLU) else 0
