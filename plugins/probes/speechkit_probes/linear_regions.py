"""The linear pieces of a net along a path, and the regions of small nets of ReLU layers."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechkit.errors import ComponentError
from speechkit.models import Model
from speechkit.nn import Chunk
from speechkit.probes import Examples
from speechkit.probes.codes import activations, codes, codes_between, path

ROWS = 64
"""How many points are computed at a time."""
MOST_FRAMES = 64
"""The most frames of a path: the codes of all its points are kept."""
MARGIN = 1e-7
"""How far inside all of its half-spaces a point of a region must be."""
MOST_UNITS = 24
"""The most units for which all regions are counted: their number may double with each."""
Layers = Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]
"""Weights `[units, inputs]` and biases `[units]` of layers with a ReLU behind each."""


def linear_regions(
    pairs: int = 4, points: int = 65, depth: int = 4
) -> Callable[[Model, Examples], dict[str, Tensor]]:
    """The probe: how often a net's units switch on straight paths from utterance to utterance.

    A path goes from the features of one utterance to those of another, cut to the shorter one and
    to 64 frames. It has `points` points at equal distances; then each interval whose ends differ in
    more than one bit is halved, up to `depth` times. A bit says whether an activation's input is
    above 0. The means over `pairs` pairs, each utterance of a random order with the next:

        flips    bits that change, added up over the intervals
        regions  codes in a row that differ: a lower bound of the activation regions on the path, at
                 most flips + 1
        pieces   rows of regions in which the scores have one slope, of the regions that have two
                 points or more: the net is affine on each if its activations are ReLU
        resolved the share of intervals where at most one bit changes; below 1, `regions` and
                 `pieces` are too low, and a net of many units needs a larger depth

    The three differ, since a path can cross many hyperplanes at once, and neighbouring regions can
    share one affine map: the number of "linear regions" depends on the definition, as Wang,
    arXiv:2505.16716, shows. ComponentError for fewer than two utterances or without an activation.
    """
    if pairs < 1 or points < 2 or depth < 0:
        raise ComponentError(
            f"probe linear_regions: pairs={pairs}, points={points}, depth={depth}; give at least 1 "
            "pair, 2 points and a depth of 0"
        )

    @torch.no_grad()
    def look(model: Model, examples: Examples) -> dict[str, Tensor]:
        count = len(examples.utterances)
        if count < 2 or not activations(model):
            raise ComponentError(
                f"probe linear_regions: {count} utterances, {len(activations(model))} activations; "
                "give two utterances, and a model with activations"
            )
        model.double()
        clips = examples.clips(pairs + 1)
        rows = [model.features(clip[None].double()).x for clip in clips]
        found = []
        for index in range(pairs):
            one, other = rows[index % len(rows)], rows[(index + 1) % len(rows)]
            frames = min(one.shape[2], other.shape[2], MOST_FRAMES)
            found.append(_along(model, one[..., :frames], other[..., :frames], points, depth))
        means = torch.tensor(found, dtype=torch.float64).mean(0)
        return dict(zip(("flips", "regions", "pieces", "resolved"), means, strict=True))

    return look


def _along(
    model: Model, one: Tensor, other: Tensor, points: int, depth: int
) -> tuple[int, int, int, float]:
    """The three counts of a path, and the share of it where they are exact."""

    def bits(at: Tensor) -> Tensor:
        parts = []
        for some in at.split(ROWS):
            each = codes(model, Chunk.of(path(one, other, some)[0])).values()
            parts.append(torch.cat([c.x.flatten(1) for c in each], 1))
        return torch.cat(parts)

    at, found = codes_between(bits, points, depth)
    scores = torch.cat(
        [
            model.score(Chunk.of(path(one, other, some)[0])).scores.flatten(1)
            for some in at.split(ROWS)
        ]
    )
    changed = (found[1:] != found[:-1]).sum(1)
    return (
        int(changed.sum()),
        int((changed > 0).sum()) + 1,
        _pieces(at, changed == 0, scores),
        float((changed <= 1).double().mean()),
    )


def _pieces(at: Tensor, same: Tensor, scores: Tensor) -> int:
    """The number of slopes in a row; `same` marks the intervals within one region."""
    slopes = (scores[1:] - scores[:-1]) / (at[1:] - at[:-1])[:, None]
    known = slopes[same]
    if len(known) == 0:
        return 0
    scale = known.abs().max().clamp(min=1e-12)
    return int(((known[1:] - known[:-1]).abs().amax(1) > 1e-6 * scale).sum()) + 1


def regions(layers: Layers) -> int:
    """The number of full-dimensional activation regions of layers of ReLU, by linear programs.

    A region is the set of inputs with one code; each unit that can be on and off in a region of the
    units before it splits that region. For one layer of n units in general position and d inputs
    it is Σ_{j ≤ d} C(n, j). ComponentError for more than 24 units.
    """
    units = sum(len(bias) for _, bias in layers)
    if units > MOST_UNITS:
        raise ComponentError(f"regions: {units} units; give at most {MOST_UNITS}")
    inputs = layers[0][0].shape[1]
    # each region: its half-spaces g x + h > 0, and the affine map of the layer before
    cells = [(np.zeros((0, inputs)), np.zeros(0))]
    maps = [(np.eye(inputs), np.zeros(inputs))]
    for weight, bias in layers:
        split: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
        after: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
        for (g, h), (a, b) in zip(cells, maps, strict=True):
            slopes, offsets = weight @ a, weight @ b + bias
            signs = [((g, h), np.zeros(0))]
            for slope, offset in zip(slopes, offsets, strict=True):
                signs = [
                    (
                        (np.vstack([gs, s * slope]), np.append(hs, s * offset)),
                        np.append(code, s > 0),
                    )
                    for (gs, hs), code in signs
                    for s in (1.0, -1.0)
                    if _has_inside(np.vstack([gs, s * slope]), np.append(hs, s * offset))
                ]
            for cell, code in signs:
                split.append(cell)
                after.append((code[:, None] * slopes, code * offsets))
        cells, maps = split, after
    return len(cells)


def _has_inside(g: NDArray[np.float64], h: NDArray[np.float64]) -> bool:
    """True if a ball of radius MARGIN within [−1e3, 1e3] has g x + h > 0 in it everywhere."""
    from scipy.optimize import linprog  # type: ignore[import-untyped]

    sizes = np.linalg.norm(g, axis=1)
    if np.any((sizes == 0) & (h <= 0)):
        return False
    inputs = g.shape[1]
    found = linprog(
        np.append(np.zeros(inputs), -1),
        A_ub=np.column_stack([-g, sizes]),
        b_ub=h,
        bounds=[(-1e3, 1e3)] * inputs + [(0, 1)],
    )
    return bool(found.status == 0 and -found.fun > MARGIN)
