"""Whether neighbouring frames, and any two frames, use different units."""

from collections.abc import Callable

import torch
from torch import Tensor

from speechkit.errors import ComponentError
from speechkit.models import Model
from speechkit.probes import Examples
from speechkit.probes.codes import activations, codes


def activation_regions(pairs: int = 1000) -> Callable[[Model, Examples], dict[str, Tensor]]:
    """The probe: the on/off codes of single frames, layer by layer.

    The code of a frame in a layer has a bit for each unit: 1 if the input of the activation is
    above 0. For each activation, in the order of the net, over valid frames:

        adjacent  mean share of bits that differ between a frame and the next one
        far       the same for `pairs` random pairs of frames of all utterances
        unique    different codes / frames
        dead      share of units that are on in no frame

    Where `adjacent` is small beside `far`, the layer treats neighbours alike: it can learn slow
    changes only. Lazzari and Liu, arXiv:2301.05816. ComponentError without an activation.
    """
    if pairs < 1:
        raise ComponentError(f"probe activation_regions: pairs={pairs}; give at least 1")

    @torch.no_grad()
    def look(model: Model, examples: Examples) -> dict[str, Tensor]:
        if not activations(model):
            raise ComponentError("probe activation_regions: the model has no activation")
        rows: dict[str, list[Tensor]] = {}
        steps: dict[str, list[Tensor]] = {}
        for _, features in examples:
            for name, c in codes(model, features).items():
                for row, length in zip(c.x, c.lengths.tolist(), strict=True):
                    bits = row[:, :length].T.cpu()
                    rows.setdefault(name, []).append(bits)
                    steps.setdefault(name, []).append((bits[1:] != bits[:-1]).float().mean(1))
        found = []
        for name, parts in rows.items():
            bits = torch.cat(parts)
            chance = torch.Generator().manual_seed(examples.seed)
            one, other = torch.randint(len(bits), (2, pairs), generator=chance)
            found.append(
                torch.stack(
                    [
                        torch.cat(steps[name]).mean(),
                        (bits[one] != bits[other]).float().mean(),
                        torch.tensor(len(torch.unique(bits, dim=0)) / len(bits)),
                        (~bits).all(0).float().mean(),
                    ]
                )
            )
        values = torch.stack(found, 1)
        return dict(zip(("adjacent", "far", "unique", "dead"), values, strict=True))

    return look


def gradient_confusion(pairs: int = 20) -> Callable[[Model, Examples], dict[str, Tensor]]:
    """The probe: whether utterances pull the weights in one direction.

    The cosine of the gradients of the losses of two utterances, with respect to all weights, for
    `pairs` random pairs: `mean`, `lowest`, and, where both have a label, `same` and `other` for
    pairs with one label and with two. Sankararaman et al., arXiv:1904.06963; Lazzari and Liu,
    arXiv:2301.05816. ComponentError for fewer than two utterances.
    """
    if pairs < 1:
        raise ComponentError(f"probe gradient_confusion: pairs={pairs}; give at least 1")

    def look(model: Model, examples: Examples) -> dict[str, Tensor]:
        count = len(examples.utterances)
        if count < 2:
            raise ComponentError(f"probe gradient_confusion: {count} utterance; give at least 2")
        chance = torch.Generator().manual_seed(examples.seed)
        drawn = [torch.randperm(count, generator=chance)[:2].tolist() for _ in range(pairs)]
        gradients = _gradients(model, examples, sorted({i for pair in drawn for i in pair}))
        cosines = torch.stack(
            [torch.cosine_similarity(gradients[a], gradients[b], 0) for a, b in drawn]
        )
        found = {"mean": cosines.mean(), "lowest": cosines.min()}
        labels = [utterance.label for utterance in examples.utterances]
        for name, wanted in ("same", True), ("other", False):
            chosen = [
                i
                for i, (a, b) in enumerate(drawn)
                if None not in (labels[a], labels[b]) and (labels[a] == labels[b]) is wanted
            ]
            if chosen:
                found[name] = cosines[chosen].mean()
        return found

    return look


def _gradients(model: Model, examples: Examples, wanted: list[int]) -> dict[int, Tensor]:
    """The gradient `[P]` of the loss of each wanted utterance."""
    weights = [p for p in model.parameters() if p.requires_grad]
    found = {}
    alone = Examples(model, [examples.utterances[i] for i in wanted], batch_size=1)
    for batch, features in alone:
        with torch.enable_grad():
            loss = alone.loss(model.score(features), batch).sum()
            parts = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
        gradient = torch.cat([part.flatten() for part in parts])
        found[wanted[batch.indices[0]]] = gradient.double().cpu()
    return found
