"""The smallest weights become 0."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from speechkit.errors import ComponentError
from speechkit.models import Model
from speechkit.probes import Examples
from speechkit_compression.weights import (
    check_scope,
    grouped,
    lowest,
    parsed,
    present,
    prunable,
)

RANKS = "magnitude", "random"


@dataclass(frozen=True)
class Magnitude:
    """w · 1[|w| ≥ the quantile `share` of |w|]: the given share of the weights is 0 then.

    The quantile is that of each layer, or with `scope` "global" of all layers together. Weights
    that are 0 already count. `targets` are kinds of weights with spaces between them: those of 1×1
    layers (pointwise), of depthwise and other convolutions (depthwise, dense), and the matrices of
    recurrent layers (i2h, h2h). Biases and norms stay. `block` outputs of a 1×1 layer lose the
    weights of one input together, those with the smallest mean |w|. `rank` "random" draws the
    weights instead, for comparison. Train the result with the method `keep_zeros`.
    Source: Darji, arXiv:2407.20601; blocks are our own.

    ComponentError for a share outside 0 to 1, and for names that are not listed here.
    """

    share: float
    scope: str = "layer"
    targets: str = "pointwise dense i2h h2h"
    block: int = 1
    rank: str = "magnitude"

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ComponentError(f"magnitude: share={self.share}; give a share from 0 to 1")
        if self.block < 1:
            raise ComponentError(f"magnitude: block={self.block}; give a number of outputs from 1")
        if self.rank not in RANKS:
            raise ComponentError(f"magnitude: rank={self.rank}; give {' or '.join(RANKS)}")
        check_scope("magnitude", self.scope)
        parsed(self.targets)

    @torch.no_grad()
    def __call__(self, model: Model, examples: Examples | None) -> tuple[Model, dict[str, Any]]:
        made = copy.deepcopy(model)
        weights = present(prunable(made, parsed(self.targets)), "magnitude")
        for group in grouped(weights, self.scope):
            self._prune(list(group.values()))
        return made, zeros(weights)

    def _prune(self, weights: Sequence[Tensor]) -> None:
        tiles = [_Tiles(weight, self.block) for weight in weights]
        scores = [tile.mean_size for tile in tiles]
        if self.rank == "random":
            scores = [torch.rand_like(score) * (score > 0) for score in scores]
        total = round(self.share * sum(weight.numel() for weight in weights))
        chosen = lowest(scores, [tile.counts for tile in tiles], total)
        for weight, tile, pruned in zip(weights, tiles, chosen, strict=True):
            weight.masked_fill_(tile.spread(pruned).view_as(weight), 0)


def zeros(weights: dict[str, Tensor]) -> dict[str, Any]:
    """The report: the numbers of zeros and of weights, and the share of zeros of each weight."""
    return {
        "zeros": sum(int((weight == 0).sum()) for weight in weights.values()),
        "weights": sum(weight.numel() for weight in weights.values()),
        "layers": {name: float((w == 0).double().mean()) for name, w in weights.items()},
    }


class _Tiles:
    """`block` rows × 1 column of a matrix `[N, M]`, single weights of other kinds of weights."""

    def __init__(self, weight: Tensor, block: int) -> None:
        rows = weight.flatten(1)
        # other kinds have several weights for an input
        height = block if rows.shape == weight.shape[:2] else 1
        self.index = torch.arange(len(rows), device=rows.device) // height
        heights = torch.bincount(self.index)[:, None]
        sums = rows.new_zeros(len(heights), rows.shape[1]).index_add_(0, self.index, rows.abs())
        self.mean_size = sums / heights
        """The mean |w| of each tile, `[ceil(N / height), M]`."""
        self.counts = heights.expand_as(sums)
        """The number of weights of each tile."""

    def spread(self, tiles: Tensor) -> Tensor:
        """The value of each row's tile, `[N, M]`."""
        return tiles[self.index]
