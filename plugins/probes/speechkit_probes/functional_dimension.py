"""How many of a part's weights the outputs can tell apart."""

from collections.abc import Callable

import torch
from torch import Tensor

from speechkit.errors import ComponentError
from speechkit.models import Model
from speechkit.probes import Examples

MOST_WEIGHTS = 4000
"""The most weights of a part: a matrix of that many columns is decomposed."""
TOLERANCE = 1e-9
"""Singular values below this share of the largest one count as 0."""


def functional_dimension(
    part: str = "head", rows: int = 3
) -> Callable[[Model, Examples], dict[str, Tensor]]:
    """The probe: the rank of the Jacobian of the scores with respect to the weights of a part.

    `part` is a part of the net, such as `head`, or `encoder.2` for its third block. The Jacobian
    has a row for a score of a frame or clip, in float64: `rows` times as many rows as weights,
    drawn from all recordings in equal parts, or all scores if they are fewer.

        weights   the number of weights of the part
        rank      its functional dimension at these weights: the number of directions that change
                  any of the scores
        deficit   weights − rank: scales and shifts that cancel, and dead units
        enough    1 if there were more rows than weights; otherwise the rank is a lower bound

    Grigsby, Lindsey and Rolnick, arXiv:2306.06179. ComponentError for a part of more than 4000
    weights, or without any.
    """
    if rows < 1:
        raise ComponentError(f"probe functional_dimension: rows={rows}; give at least 1")

    def look(model: Model, examples: Examples) -> dict[str, Tensor]:
        model.double()
        weights = {
            name: p.requires_grad_()
            for name, p in model.named_parameters()
            if f"{name}.".startswith(f"{part}.")
        }
        count = sum(p.numel() for p in weights.values())
        if not 0 < count <= MOST_WEIGHTS:
            raise ComponentError(
                f"probe functional_dimension: part={part} has {count} weights; give a part of 1 to "
                f"{MOST_WEIGHTS} weights, such as head or encoder.0"
            )
        found: list[Tensor] = []
        clips = examples.clips(len(examples.utterances))
        each = -(-rows * count // len(clips))
        chance = torch.Generator().manual_seed(examples.seed)
        for audio in clips:
            with torch.no_grad():
                features = model.features(audio[None].double())
            with torch.enable_grad():
                scores = model.score(features).scores.flatten()
                for index in torch.randperm(len(scores), generator=chance)[:each].tolist():
                    parts = torch.autograd.grad(
                        scores[index],
                        list(weights.values()),
                        retain_graph=True,
                        allow_unused=True,
                        materialize_grads=True,
                    )
                    found.append(torch.cat([p.flatten() for p in parts]))
        rank = rank_of(torch.stack(found))
        return {
            "weights": torch.tensor(count),
            "rank": torch.tensor(rank),
            "deficit": torch.tensor(count - rank),
            "enough": torch.tensor(int(len(found) > count)),
        }

    return look


def rank_of(jacobian: Tensor) -> int:
    """The numerical rank of rows `[N, weights]`, each scaled to length 1 unless it is 0."""
    norms = jacobian.norm(dim=1, keepdim=True)
    kept = (jacobian / norms.clamp(min=1e-300))[norms[:, 0] > 0]
    if not len(kept):
        return 0
    sizes = torch.linalg.svdvals(kept)
    return int((sizes > TOLERANCE * sizes[0]).sum())
