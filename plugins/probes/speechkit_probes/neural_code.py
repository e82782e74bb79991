"""Utterances as codes of bits: which units of the net are on."""

from collections.abc import Callable

import torch
from torch import Tensor

from speechkit.errors import ComponentError
from speechkit.models import Model
from speechkit.probes import Examples
from speechkit.probes.codes import activations, codes


def neural_code(
    share: float = 0.5, neighbours: int = 5
) -> Callable[[Model, Examples], dict[str, Tensor]]:
    """The probe: a code of bits for each utterance, and how well the codes alone tell labels apart.

    Bit u of an utterance is 1 if the input of unit u of an activation is above 0 in more than
    `share` of its valid frames.

        redundancy  1 − different codes / utterances
        entropy     −Σ p log₂ p over the different codes, in bits; log₂ of the utterances at most
        off, on     the shares of units whose bit is 0, or 1, for all utterances
        nearest     of each utterance the distance to the nearest other code, as a share of the
                    bits that vary: 0 for a copy; in the order of the manifest
        knn         with labels: the share of utterances with the label of most of the
                    `neighbours` nearest ones; a tie goes to the nearer
        net         beside it, the accuracy of the model, where it is a classifier

    He et al., Neural networks behave as hash encoders, arXiv:2101.05490; pooling over frames is
    ours. ComponentError for fewer than two utterances or a model without activations.
    """
    if not 0 <= share < 1 or neighbours < 1:
        raise ComponentError(
            f"probe neural_code: share={share}, neighbours={neighbours}; give a share from 0 to "
            "below 1, and at least 1 neighbour"
        )

    @torch.no_grad()
    def look(model: Model, examples: Examples) -> dict[str, Tensor]:
        count = len(examples.utterances)
        if count < 2 or not activations(model):
            raise ComponentError(
                f"probe neural_code: {count} utterances, {len(activations(model))} activations; "
                "give two utterances, and a model with activations"
            )
        bits, predicted = _bits(model, examples, share)
        distances = torch.cdist(bits.float(), bits.float(), p=1).fill_diagonal_(torch.inf)
        different = torch.unique(bits, dim=0, return_counts=True)[1] / count
        varying = (bits != bits[:1]).any(0).sum()
        found = {
            "redundancy": torch.tensor(1 - len(different) / count),
            "entropy": -(different * different.log2()).sum(),
            "off": (~bits).all(0).float().mean(),
            "on": bits.all(0).float().mean(),
            "nearest": distances.amin(1) / varying.clamp(min=1),
        }
        labels = _labels(model, examples)
        if labels is not None:
            votes = _votes(distances, labels, neighbours)
            found["knn"] = (votes == labels).float().mean()
            if predicted is not None:
                found["net"] = (predicted == labels).float().mean()
        return found

    return look


def _bits(model: Model, examples: Examples, share: float) -> tuple[Tensor, Tensor | None]:
    """The bits `[N, units]` and a classifier's labels `[N]`, in the order of the manifest."""
    rows: list[Tensor] = [torch.empty(0)] * len(examples.utterances)
    best = torch.zeros(len(rows), dtype=torch.long) if model.per_clip else None
    for batch, features in examples:
        shares = [
            c.masked.float().sum(2) / c.lengths[:, None] for c in codes(model, features).values()
        ]
        for index, row in zip(batch.indices, torch.cat(shares, 1) > share, strict=True):
            rows[index] = row.cpu()
        if best is not None:
            best[list(batch.indices)] = model.score(features).scores.argmax(1).cpu()
    return torch.stack(rows), best


def _labels(model: Model, examples: Examples) -> Tensor | None:
    """The number of each utterance's label, first those of the model; None if one has no label."""
    given = [utterance.label for utterance in examples.utterances]
    if None in given:
        return None
    known = dict.fromkeys((*model.labels, *given))
    numbers = {label: number for number, label in enumerate(known)}
    return torch.tensor([numbers[label] for label in given])


def _votes(distances: Tensor, labels: Tensor, neighbours: int) -> Tensor:
    """The most frequent label of each row's nearest neighbours; a tie goes to the nearer ones."""
    nearest = torch.argsort(distances, dim=1, stable=True)[:, : min(neighbours, len(labels) - 1)]
    # a nearer neighbour counts a little more
    weights = 1 + 1e-3 / (1 + torch.arange(nearest.shape[1]))
    votes = torch.zeros(len(labels), int(labels.max()) + 1)
    votes.scatter_add_(1, labels[nearest], weights.expand_as(nearest).contiguous())
    return votes.argmax(1)
