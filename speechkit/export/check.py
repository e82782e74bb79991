"""Compares an exported file's output with the model's."""

import math

import torch
from torch import Tensor

from speechkit.export.graph import Graph, Run, UnexportableError


def check(graph: Graph, run: Run, tolerance: float) -> float:
    """The largest difference of scores on the graph's trials, relative to the largest score.

    Raises UnexportableError where it is above `tolerance`, or where lengths or masks differ.
    """
    try:
        worst = max(_differences(graph, run))
    # every runtime raises its own exceptions
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise UnexportableError(f"the exported model does not run: {reason}") from error
    if not worst <= tolerance:
        raise UnexportableError(
            f"the exported model's scores are off by {worst:.1e} of the largest, more than "
            f"{tolerance:.0e}; nothing was written"
        )
    return worst


def _differences(graph: Graph, run: Run) -> list[float]:
    found = []
    for trial in graph.trials:
        states = [graph.start(len(trial[0][0]))] * 2
        largest, off = 0.0, 0.0
        for x, valid in trial:
            with torch.no_grad():
                want = graph.model(x, valid, *states[0])
            got = run([x, valid, *states[1]])
            if not torch.equal(want[1], got[1]):
                return [math.inf]
            states = [list(want[2:]), list(got[2:])]
            inside = _valid(want[0], want[1])
            if inside.any():
                largest = max(largest, float(want[0][inside].abs().max()))
                difference = float((want[0] - got[0])[inside].abs().max())
                # max() would drop a NaN
                off = max(off, difference if math.isfinite(difference) else math.inf)
        found.append(off / largest if largest else off)
    return found


def _valid(scores: Tensor, valid: Tensor) -> Tensor:
    """True where scores `[B, n]` or `[B, T, n]` are valid; `valid` is `[B, T]` or lengths `[B]`."""
    if scores.ndim == 2:
        return torch.ones(len(scores), dtype=torch.bool)
    if valid.ndim == 2:
        return valid
    return torch.arange(scores.shape[1]) < valid[:, None]
