"""What probes found in a model: numbers, and a page with tables and plots."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from speechkit.component import Spec
from speechkit.plugins import registry
from speechkit.probes.comparison import Difference
from speechkit.report.page import line, number, page, shades, table

Found = Mapping[str, Mapping[str, Tensor]]
"""Tensors by the probe and by name."""
POINTS, CELLS = 1000, 64
"""The most points of a line, and the most rows and columns of a matrix, that a page draws."""


@dataclass(frozen=True)
class Other:
    """What the same probes found in another model, and the differences from the first one."""

    found: Found
    differences: Mapping[str, Mapping[str, Difference]]


def by_name(found: Found) -> dict[str, Tensor]:
    """All tensors, each by `PROBE/NAME`."""
    return {f"{p}/{name}": x for p, tensors in found.items() for name, x in tensors.items()}


def numbers_of(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Each scalar as a number, None where it is not finite; of a larger tensor its shape."""
    return {
        name: list(x.shape) if x.ndim else x.item() if x.isfinite() else None
        for name, x in tensors.items()
    }


def in_words(difference: Difference) -> str:
    """The difference with its interval."""
    if difference.low is None or difference.high is None:
        return number(difference.difference)
    interval = f"{number(difference.low)} to {number(difference.high)}"
    return f"{number(difference.difference)} ({interval})"


def probe_page(title: str, utterances: int, found: Found, other: Other | None = None) -> str:
    """The page: for each probe what it measures and a table of its scalars, then its vectors and
    matrices drawn, and those of the other model below."""
    sections = []
    for name, tensors in found.items():
        parts = [_about(name), *_parts(tensors)]
        if other is not None:
            parts += _compared(other.differences[name])
            parts += ["<h3>The other model</h3>", *_parts(other.found[name])]
        sections.append((name, "\n".join(parts)))
    return page(title, {"n": utterances}, sections)


def _about(name: str) -> str:
    """A probe's summary, formula and paper."""
    component = registry().find("probe", Spec.parse(name).name).component
    formula = f"<br><code>{escape(component.formula)}</code>" if component.formula else ""
    paper = f" ({escape(component.paper)})" if component.paper else ""
    return f"<p>{escape(component.summary)}{paper}{formula}</p>"


def _compared(differences: Mapping[str, Difference]) -> Iterator[str]:
    if differences:
        head = ("", "this model", "other model", "difference, 95 % interval")
        rows = [
            (name, number(one.model), number(one.other), in_words(one))
            for name, one in differences.items()
        ]
        yield "<h3>Means over parts of the utterances</h3>" + table(head, rows)


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
