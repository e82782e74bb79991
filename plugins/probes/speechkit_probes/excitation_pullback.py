"""Whether the features that an attribution names are those that the score depends on."""

from collections.abc import Callable

import torch
from torch import Tensor

from speechkit.errors import ComponentError
from speechkit.models import Model, Output
from speechkit.nn import Chunk
from speechkit.probes import Examples
from speechkit_probes.attribution import attribution, best, excitation, target, without


def excitation_pullback(
    temperature: float = 0.3, share: float = 0.2
) -> Callable[[Model, Examples], dict[str, Tensor]]:
    """The probe: what the score loses without the features that rank highest.

    The score is the logit of the predicted label; for scores of frames, the mean of each frame's
    best one. The attribution of a feature is the gradient of the score times its distance from the
    mean over the utterance. `pullback` takes σ(z / temperature) for the derivative of each
    activation with input z, `gradient` the derivative, and `random` draws the features. The
    `share` of features with the highest attribution is then set to the mean.

        pullback, gradient, random    the mean loss of the score
        over_gradient, over_random    the share of utterances where `pullback` loses more

    The backward pass is that of excitation pullbacks, arXiv:2507.22832, whose explanations take
    several steps of ascent instead of one. Raises ComponentError for a share that is not between 0
    and 1.
    """
    if not temperature > 0 or not 0 < share < 1:
        raise ComponentError(
            f"probe excitation_pullback: temperature={temperature}, share={share}; give a "
            "temperature above 0 and a share between 0 and 1"
        )

    def look(model: Model, examples: Examples) -> dict[str, Tensor]:
        lost: dict[str, list[Tensor]] = {"pullback": [], "gradient": [], "random": []}
        chance = torch.Generator().manual_seed(examples.seed)
        for _, features in examples:
            output = _score(model, features)
            labels = best(model, output)
            ranks = {
                "pullback": attribution(model, features, labels, excitation(temperature)),
                "gradient": attribution(model, features, labels),
                "random": _drawn(features, chance),
            }
            for name, order in ranks.items():
                after = _score(model, without(features, order, share))
                lost[name].append((target(output, labels) - target(after, labels)).cpu())
        each = {name: torch.cat(parts) for name, parts in lost.items()}
        return {
            **{name: values.mean() for name, values in each.items()},
            "over_gradient": (each["pullback"] > each["gradient"]).float().mean(),
            "over_random": (each["pullback"] > each["random"]).float().mean(),
        }

    return look


@torch.no_grad()
def _score(model: Model, features: Chunk) -> Output:
    return model.score(features)


def _drawn(features: Chunk, chance: torch.Generator) -> Tensor:
    """Random numbers `[B, F, T]`, the same for a row with any padding."""
    drawn = torch.zeros_like(features.x)
    for row, length in enumerate(features.lengths.tolist()):
        drawn[row, :, :length] = torch.rand(drawn.shape[1], length, generator=chance)
    return drawn
