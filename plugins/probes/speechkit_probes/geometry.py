"""What the layers of a net keep: the input's geometry, labels and speakers."""

from collections.abc import Callable
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from speechkit.errors import ComponentError
from speechkit.models import Model
from speechkit.nn import Chunk, Taps
from speechkit.probes import Examples
from speechkit.probes.flows import blocks_of

EIGHTHS = 8
RIDGE = 1e-2
"""The ridge of the linear classifier, relative to the mean variance of its inputs."""


def geometry() -> Callable[[Model, Examples], dict[str, Tensor]]:
    """The probe: how the blocks' outputs, averaged over valid frames, are arranged.

    H `[N, C]` has a row for each utterance, X its features averaged over each eighth of it, Y its
    label as a unit vector:

        cka_in, cka_label       centred kernel alignment of H with X, and with Y, of each block
        parallelism             with two speakers or more, of each block: the mean cosine of
                                μ(a, s) − μ(b, s) and μ(a, s') − μ(b, s') over pairs of labels a, b
                                and of speakers s, s'
        across                  the accuracy of a linear classifier of the labels for a speaker to
                                which it was not fitted, the mean over speakers (CCGP)

    Alleman et al., arXiv:2401.13558. ComponentError unless there are two labels, and
    ConfigError for a stack that is not `serial`.
    """

    @torch.no_grad()
    def look(model: Model, examples: Examples) -> dict[str, Tensor]:
        labels = _numbers([u.label for u in examples.utterances])
        if labels is None or int(labels.max()) < 1:
            raise ComponentError(
                "probe geometry: give recordings with labels, of two labels or more"
            )
        speakers = _numbers([u.speaker for u in examples.utterances])
        first, *states = _means(model, examples)
        found = {
            "cka_in": torch.stack([cka(h, first) for h in states]),
            "cka_label": torch.stack([cka(h, F.one_hot(labels).double()) for h in states]),
        }
        if speakers is not None and int(speakers.max()) > 0:
            parallel = torch.stack([parallelism(h, labels, speakers) for h in states])
            if parallel.isfinite().all():
                found["parallelism"] = parallel
            found["across"] = torch.stack([across(h, labels, speakers) for h in states])
        return found

    return look


def cka(one: Tensor, other: Tensor) -> Tensor:
    """⟨HKH, HLH⟩ / (‖HKH‖ ‖HLH‖) of the linear kernels K = A Aᵀ, L = B Bᵀ. Shape: `[N, C]`."""
    a, b = (x - x.mean(0) for x in (one, other))
    sizes = (a.T @ a).norm() * (b.T @ b).norm()
    aligned: Tensor = (a.T @ b).square().sum() / sizes.clamp(min=1e-12)
    return aligned


def parallelism(states: Tensor, labels: Tensor, speakers: Tensor) -> Tensor:
    """The mean cosine of the differences of two labels' means, of two speakers; NaN if no two
    speakers have two labels in common."""
    cosines = []
    for a, b in combinations(labels.unique().tolist(), 2):
        differences = []
        for s in speakers.unique().tolist():
            ours = [(labels == label) & (speakers == s) for label in (a, b)]
            if all(mask.any() for mask in ours):
                differences.append(states[ours[0]].mean(0) - states[ours[1]].mean(0))
        cosines += [F.cosine_similarity(u, v, 0) for u, v in combinations(differences, 2)]
    return torch.stack(cosines).mean() if cosines else torch.tensor(torch.nan)


def across(states: Tensor, labels: Tensor, speakers: Tensor) -> Tensor:
    """The accuracy of a ridge classifier for each speaker that it was not fitted to, the mean."""
    rights = []
    for s in speakers.unique().tolist():
        held = speakers == s
        mean = states[~held].mean(0)
        x, targets = states[~held] - mean, F.one_hot(labels)[~held].double()
        middle = targets.mean(0)
        gram = x.T @ x
        ridge = RIDGE * gram.diagonal().mean().clamp(min=1e-12)
        eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        weights = torch.linalg.solve(gram + ridge * eye, x.T @ (targets - middle))
        scores = (states[held] - mean) @ weights + middle
        rights.append((scores.argmax(1) == labels[held]).double().mean())
    return torch.stack(rights).mean()


def _numbers(names: list[str | None]) -> Tensor | None:
    """The number of each name; None if one is missing."""
    if None in names:
        return None
    known = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return torch.tensor([known[name] for name in names])


def _means(model: Model, examples: Examples) -> list[Tensor]:
    """The features averaged over eighths `[N, 8F]`, and each block's output over all `[N, C]`."""
    blocks = blocks_of(model)
    rows: list[list[Tensor]] = [[] for _ in range(1 + len(blocks))]
    order: list[int] = []
    with Taps(blocks) as taps:
        for batch, features in examples:
            model.score(features)
            order += batch.indices
            pooled = [_pooled(features, EIGHTHS), *(_pooled(c.output, 1) for c in taps.take())]
            for kept, x in zip(rows, pooled, strict=True):
                kept.append(x)
    at = torch.tensor(order).argsort()
    return [torch.cat(kept).cpu()[at] for kept in rows]


def _pooled(c: Chunk, parts: int) -> Tensor:
    """The mean of each row over `parts` equal parts of its valid frames, `[B, C · parts]`."""
    rows = [x[:, :length] for x, length in zip(c.x.double(), c.lengths.tolist(), strict=True)]
    return torch.stack([F.adaptive_avg_pool1d(x, parts).flatten() for x in rows])
