"""How like another model's scores a model's scores are."""

from typing import NamedTuple

import torch

from speechkit.models import Model
from speechkit.probes import Examples
from speechkit_compression.healing import divergence


class Likeness(NamedTuple):
    """`divergence` is the mean KL(teacher ‖ student) of an utterance, in nats; `agreement` the
    share of utterances, or of valid frames, with the same best label."""

    divergence: float
    agreement: float


@torch.no_grad()
def likeness(student: Model, teacher: Model, examples: Examples) -> Likeness:
    """The likeness of two models in evaluation, with the same front end, over all examples."""
    apart, same = [], []
    for _, features in examples:
        mine, wanted = student.score(features), teacher.score(features)
        apart.append(divergence(mine, wanted))
        equal = mine.scores.argmax(-1) == wanted.scores.argmax(-1)
        if equal.ndim == 2:
            equal = equal[torch.arange(equal.shape[1], device=equal.device) < mine.lengths[:, None]]
        same.append(equal)
    return Likeness(torch.cat(apart).mean().item(), torch.cat(same).double().mean().item())
