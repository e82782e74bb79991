"""The regions of labels in a plane, made of triangles, and what lies outside all of them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechkit.errors import ComponentError
from speechkit.models import Model
from speechkit.nn import Chunk, Taps
from speechkit.probes import Examples

CELLS = 64
"""The rows and columns of the map."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Region:
    """The triangles of a label's points `[N, 2]`, and the edges of its border, by point."""

    points: Floats
    triangles: NDArray[np.int64]
    border: NDArray[np.int64]

    @classmethod
    def of(cls, points: Floats, neighbours: int) -> "Region":
        """Delaunay triangles whose corners are all among each other's `neighbours` nearest.

        An edge is kept if one of its ends is a neighbour of the other. The border has the edges of
        one triangle only. Raises ComponentError for fewer than three points that are not in line,
        and if no triangle is left.
        """
        from scipy.spatial import Delaunay, QhullError  # type: ignore[import-untyped]

        try:
            triangles = Delaunay(points).simplices.astype(np.int64)
        except (QhullError, ValueError) as error:
            raise ComponentError(
                "probe manifoldron: a label has fewer than three recordings, or all in one line; "
                "give more of each"
            ) from error
        distance = np.linalg.norm(points[:, None] - points, axis=2)
        order = distance.argsort(1, kind="stable")
        near = np.zeros((len(points), len(points)), bool)
        near[np.arange(len(points))[:, None], order[:, : neighbours + 1]] = True
        near |= near.T
        corners = [(0, 1), (1, 2), (0, 2)]
        kept = np.all([near[triangles[:, a], triangles[:, b]] for a, b in corners], axis=0)
        triangles = triangles[kept]
        if not len(triangles):
            raise ComponentError(
                f"probe manifoldron: no triangle of a label has corners among {neighbours} nearest "
                "neighbours; give more neighbours"
            )
        edges = np.sort(np.concatenate([triangles[:, list(pair)] for pair in corners]), axis=1)
        found, counts = np.unique(edges, axis=0, return_counts=True)
        return cls(points, triangles, found[counts == 1])

    def inside(self, queries: Floats) -> NDArray[np.bool_]:
        """Whether each query `[Q, 2]` is in one of the triangles, or on its border."""
        found = np.zeros(len(queries), bool)
        slack = 1e-9 * np.ptp(self.points, axis=0).prod()
        for corners in self.points[self.triangles]:
            sides = [_side(corners[i], corners[(i + 1) % 3], queries) for i in range(3)]
            found |= np.all([s >= -slack for s in sides], axis=0)
            found |= np.all([s <= slack for s in sides], axis=0)
        return found

    def depth(self, queries: Floats) -> Floats:
        """The distance of each query `[Q, 2]` to the nearest point of the border."""
        starts, ends = self.points[self.border[:, 0]], self.points[self.border[:, 1]]
        along = ends - starts
        length = np.maximum((along**2).sum(1), 1e-30)
        share = ((queries[:, None] - starts) * along).sum(2) / length
        nearest = starts + np.clip(share, 0, 1)[..., None] * along
        found: Floats = np.linalg.norm(queries[:, None] - nearest, axis=2).min(1)
        return found


def classify(regions: list[Region], queries: Floats) -> tuple[NDArray[np.int64], Floats]:
    """The region of each query, and whether it is outside of all.

    Inside one region: that one; inside several: that whose border is farthest; inside none: that
    whose border is nearest.
    """
    inside = np.stack([region.inside(queries) for region in regions])
    depth = np.stack([region.depth(queries) for region in regions])
    signed = np.where(inside, depth, -np.inf)
    outside = ~inside.any(0)
    return np.where(outside, depth.argmin(0), signed.argmax(0)), outside


def manifoldron(neighbours: int = 14) -> Callable[[Model, Examples], dict[str, Tensor]]:
    """The probe: the regions of the labels in the plane of the last hidden layer, and outliers.

    The input of the head, averaged over valid frames, is projected to its first two principal
    components. Half of the recordings make the regions: Delaunay triangles of each label whose
    corners are among `neighbours` nearest ones. The others are classified by the regions.

        accuracy         the share of the other half in the region of its label
        outside          the share of it that is outside of all regions
        noise_outside    the same for white noise of the level and length of these recordings
        variance         the share of the variance that the plane has
        map              the label's number at each point of the plane, −1 outside, `[64, 64]`

    Wang et al., Manifoldron, arXiv:2201.05279; a plane, not the paper's bags of features. Needs
    scipy. ComponentError for recordings without labels or too few of one.
    """
    if neighbours < 2:
        raise ComponentError(f"probe manifoldron: neighbours={neighbours}; give at least 2")

    @torch.no_grad()
    def look(model: Model, examples: Examples) -> dict[str, Tensor]:
        labels = [utterance.label for utterance in examples.utterances]
        names = sorted({label for label in labels if label is not None})
        if None in labels or len(names) < 2:
            raise ComponentError("probe manifoldron: give recordings with labels, of two or more")
        vectors, noise = _vectors(model, examples)
        mean = vectors.mean(0)
        _, sizes, axes = np.linalg.svd(vectors - mean, full_matrices=False)
        plane, others = (vectors - mean) @ axes[:2].T, (noise - mean) @ axes[:2].T
        order = np.random.default_rng(examples.seed).permutation(len(plane))
        half, rest = order[: len(order) // 2], order[len(order) // 2 :]
        numbers = np.array([names.index(str(label)) for label in labels])
        regions = [
            Region.of(plane[half][numbers[half] == n], neighbours) for n in range(len(names))
        ]
        found, outside = classify(regions, plane[rest])
        low, high = plane.min(0), plane.max(0)
        grid = np.stack(
            np.meshgrid(*(np.linspace(low[i], high[i], CELLS) for i in (0, 1)), indexing="ij"), -1
        ).reshape(-1, 2)
        shown, beyond = classify(regions, grid)
        return {
            "accuracy": torch.tensor((found == numbers[rest]).mean()),
            "outside": torch.tensor(outside.mean()),
            "noise_outside": torch.tensor(classify(regions, others)[1].mean()),
            "variance": torch.tensor((sizes[:2] ** 2).sum() / (sizes**2).sum()),
            "map": torch.from_numpy(np.where(beyond, -1, shown).reshape(CELLS, CELLS)),
        }

    return look


def _vectors(model: Model, examples: Examples) -> tuple[Floats, Floats]:
    """The mean of the head's input over valid frames for each utterance, and for noise like it."""
    chance = torch.Generator().manual_seed(examples.seed)
    rows: list[list[Tensor]] = [[], []]
    with Taps({"encoder": model.encoder}) as taps:
        for audio in examples.clips(len(examples.utterances)):
            noise = torch.randn(len(audio), generator=chance).to(audio)
            for kept, sound in zip(
                rows, (audio, noise * audio.square().mean().sqrt()), strict=True
            ):
                model(sound[None])
                (call,) = taps.take()
                kept.append(_mean(call.output))
    drawn = torch.Generator().manual_seed(examples.seed)
    order = torch.randperm(len(examples.utterances), generator=drawn)
    found = [torch.stack(kept).double().cpu().numpy() for kept in rows]
    vectors = np.empty_like(found[0])
    vectors[order.numpy()] = found[0]
    return vectors, found[1]


def _mean(c: Chunk) -> Tensor:
    return c.masked.sum(2)[0] / c.lengths[0].clamp(min=1)


def _side(a: Floats, b: Floats, queries: Floats) -> Floats:
    """On which side of the line from a to b each query is."""
    side: Floats = (b[0] - a[0]) * (queries[:, 1] - a[1]) - (b[1] - a[1]) * (queries[:, 0] - a[0])
    return side
