"""How alike the frames of two layers are."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

K = TypeVar("K")


def cosine(u: Tensor, v: Tensor) -> Tensor:
    """The cosine of the angle between the channels of each frame; `[N, C]` → `[N]`, in float64."""
    return (_unit(u) * _unit(v)).sum(1)


def angle(u: Tensor, v: Tensor) -> Tensor:
    """That angle divided by π, from 0 to 1; `[N, C]` → `[N]`, in float64.

    It is 2/π · asin(|û − v̂| / 2) of the unit vectors, which is exact near 0, unlike arccos.
    """
    half = (_unit(u) - _unit(v)).norm(dim=1) / 2
    return torch.asin(half.clamp(max=1)) * (2 / math.pi)


def means(batches: Iterable[Mapping[K, Tensor]]) -> dict[K, float]:
    """The mean over all frames of each named value; it has `[N]` in every batch."""
    sums: dict[K, float] = defaultdict(float)
    counts: dict[K, int] = defaultdict(int)
    for batch in batches:
        for name, values in batch.items():
            sums[name] += values.sum().item()
            counts[name] += len(values)
    return {name: total / counts[name] for name, total in sums.items()}


def _unit(x: Tensor) -> Tensor:
    return F.normalize(x.double(), dim=1)
