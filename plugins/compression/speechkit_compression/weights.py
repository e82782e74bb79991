"""The weights that pruning may set to 0, and the lowest of some scores."""

from collections.abc import Sequence

import torch
from torch import Tensor

from speechkit.errors import ComponentError, ConfigError
from speechkit.models import Model
from speechkit.models.inits import drawn_weights
from speechkit.nn import Rnn

TARGETS = "pointwise", "depthwise", "dense", "i2h", "h2h"
"""1×1 and linear layers, depthwise and other convolutions, and of an LSTM or GRU the matrices of
its input and of its state."""
SCOPES = "layer", "global"
"""Each weight by itself, or all of them together."""


def prunable(model: Model, targets: Sequence[str] = TARGETS) -> dict[str, Tensor]:
    """The weights of these kinds behind the front end, by name.

    Layers that draw their own weights are left out (`self_initialized`).
    """
    kinds = {id(weight): _kind(weight) for weight in drawn_weights(model)}
    for layer in model.modules():
        if isinstance(layer, Rnn):
            kinds |= {id(weight): "i2h" for weight in layer.weights[::4]}
            kinds |= {id(weight): "h2h" for weight in layer.weights[1::4]}
    return {
        name: weight
        for name, weight in model.named_parameters()
        if kinds.get(id(weight)) in targets and not name.startswith("frontend.")
    }


def parsed(targets: str) -> tuple[str, ...]:
    """The targets in a text with spaces between them; raises ComponentError for another word."""
    words = tuple(targets.split())
    if not words or not {*words} <= {*TARGETS}:
        raise ComponentError(f"targets={targets!r}; give some of {' '.join(TARGETS)}")
    return words


def present(weights: dict[str, Tensor], transform: str) -> dict[str, Tensor]:
    """The weights; raises ConfigError if there are none."""
    if not weights:
        raise ConfigError(f"transform {transform}: the net has no weights of its targets")
    return weights


def check_scope(transform: str, scope: str) -> None:
    """Raises ComponentError for another word than those of SCOPES."""
    if scope not in SCOPES:
        raise ComponentError(f"{transform}: scope={scope}; give {' or '.join(SCOPES)}")


def grouped(weights: dict[str, Tensor], scope: str) -> list[dict[str, Tensor]]:
    """The groups of weights in which the smallest are looked for."""
    return [weights] if scope == "global" else [{name: w} for name, w in weights.items()]


def lowest(scores: Sequence[Tensor], sizes: Sequence[Tensor], total: int) -> list[Tensor]:
    """True for the lowest scores of all tensors, as many as have sizes of at most `total` together.

    Shape: each score and its size `[...]`, the result `[...]` bool. The first of equal scores is
    the lowest.
    """
    order = torch.cat([score.flatten() for score in scores]).argsort(stable=True)
    fits = torch.cat([size.flatten() for size in sizes])[order].cumsum(0) <= total
    chosen = torch.empty_like(fits)
    chosen[order] = fits
    parts = chosen.split([score.numel() for score in scores])
    return [part.view_as(score) for part, score in zip(parts, scores, strict=True)]


def _kind(weight: Tensor) -> str:
    """The kind of a weight `[C', C]` or `[C', C / groups, ...]`."""
    if weight[0, 0].numel() == 1:
        return "pointwise"
    return "depthwise" if weight.shape[1] == 1 else "dense"
