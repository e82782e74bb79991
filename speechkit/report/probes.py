"""What probes found in a model: numbers, and a page with tables and plots."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from speechkit.report.page import line, number, page, shades, table

Found = Mapping[str, Mapping[str, Tensor]]
"""Tensors by the probe and by name."""
POINTS, CELLS = 1000, 64
"""The most points of a line, and the most rows and columns of a matrix, that a page draws."""


def by_name(found: Found) -> dict[str, Tensor]:
    """All tensors, each by `PROBE/NAME`."""
    return {f"{p}/{name}": x for p, tensors in found.items() for name, x in tensors.items()}


def numbers_of(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Each scalar as a number, None where it is not finite; of a larger tensor its shape."""
    return {
        name: list(x.shape) if x.ndim else x.item() if x.isfinite() else None
        for name, x in tensors.items()
    }


def probe_page(title: str, utterances: int, found: Found) -> str:
    """The page: for each probe a table of its scalars, then its vectors and matrices drawn."""
    sections = [
        (name, "\n".join(_parts(tensors))) for name, tensors in found.items() if len(tensors)
    ]
    return page(title, {"n": utterances}, sections)


def _parts(tensors: Mapping[str, Tensor]) -> Iterator[str]:
    scalars = [(name, number(x.item())) for name, x in tensors.items() if not x.ndim]
    if scalars:
        yield table(("", ""), scalars)
    for name, x in tensors.items():
        if x.ndim == 1 and len(x):
            yield line(name, _drawn(x[:: math.ceil(len(x) / POINTS)]), len(x))
        elif x.ndim == 2 and x.numel():
            rows, columns = (min(CELLS, side) for side in x.shape)
            means = F.adaptive_avg_pool2d(x.double()[None], (rows, columns))[0]
            yield shades(name, [_drawn(row) for row in means], tuple(x.shape))
    if rest := [(name, str(list(x.shape))) for name, x in tensors.items() if x.ndim > 2]:
        yield table(("", ""), rest)


def _drawn(values: Tensor) -> list[float | None]:
    """Numbers, and None in the place of NaN and infinity."""
    return [value if math.isfinite(value) else None for value in values.double().tolist()]
