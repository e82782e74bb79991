"""Statistics of batch norms, estimated anew after a change of the layers before them."""

import copy
from collections.abc import Iterable
from typing import Any

import torch

from speechkit.errors import ConfigError
from speechkit.models import Model
from speechkit.nn import BatchNorm, Chunk
from speechkit.probes import Examples
from speechkit.transforms import required


class NormStatistics:
    """Sets μ and σ² of the batch norms to their means over the batches of the examples.

    In a batch each norm normalises by the batch, as in training; no weight changes. ConfigError for
    a net without batch norms. Source: Wu & Johnson, arXiv:2105.07576 (precise batch norm).
    """

    def __call__(self, model: Model, examples: Examples | None) -> tuple[Model, dict[str, Any]]:
        examples = required(examples, "norm_statistics")
        made = copy.deepcopy(model)
        norms = estimate(made, (features for _, features in examples))
        if not norms:
            raise ConfigError(
                f"norm_statistics: the net has norm={model.config.norm} and no norm with "
                "statistics; give a net with norm=batch"
            )
        return made, {"norms": norms}


@torch.no_grad()
def estimate(model: Model, batches: Iterable[Chunk]) -> int:
    """Does this in place for batches of features `[B, F, T]`; returns the number of batch norms.

    The model is left in evaluation.
    """
    norms = [layer for layer in model.modules() if isinstance(layer, BatchNorm)]
    before = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.train()
    for index, features in enumerate(batches):
        for norm in norms:
            norm.momentum = 1 / (index + 1)
        model.score(features)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    model.eval()
    return len(norms)
