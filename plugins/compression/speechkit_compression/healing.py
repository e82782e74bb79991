"""Healing: a changed model is trained for some steps towards the scores of the original."""

import math
from collections.abc import Iterator
from itertools import chain, islice, repeat

import torch
from torch import Tensor
from torch.nn import functional as F

from speechkit.errors import TrainingError
from speechkit.models import Model, Output, evaluating
from speechkit.nn import Chunk
from speechkit.probes import Examples


def heal(
    student: Model, teacher: Model, examples: Examples, steps: int, lr: float = 2e-3
) -> list[float]:
    """Trains `student` in place with AdamW for `steps` batches of `examples`; returns each loss.

    The loss is `divergence` from the teacher, which does not change. The learning rate falls to 0
    as a cosine. The student ends in evaluation. Source: Hinton et al., arXiv:1503.02531.
    """
    losses: list[float] = []
    if not steps:
        return losses
    parameters = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr)
    student.train()
    with evaluating(teacher), torch.enable_grad():
        for step, features in enumerate(_batches(examples, steps)):
            with torch.no_grad():
                wanted = teacher.score(features)
            loss = divergence(student.score(features), wanted).mean()
            if not math.isfinite(loss.item()):
                raise TrainingError(f"healing: the loss is {loss.item()} at step {step + 1}")
            for group in optimizer.param_groups:
                group["lr"] = lr * (1 + math.cos(math.pi * step / steps)) / 2
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            losses.append(loss.item())
    student.eval()
    return losses


def divergence(student: Output, teacher: Output) -> Tensor:
    """KL(teacher ‖ student) of the labels' probabilities for each row, `[B]`, in nats.

    For scores of frames it is the mean over the valid frames.
    """
    log_p, log_q = (F.log_softmax(o.scores.double(), -1) for o in (teacher, student))
    each = (log_p.exp() * (log_p - log_q)).sum(-1)
    if each.ndim == 1:
        return each
    frames = torch.arange(each.shape[1], device=each.device)
    valid = frames < torch.minimum(student.lengths, teacher.lengths)[:, None]
    return each.masked_fill(~valid, 0.0).sum(1) / valid.sum(1).clamp(min=1)


def _batches(examples: Examples, count: int) -> Iterator[Chunk]:
    """The features of `count` batches; after the last the examples are read again."""
    again = chain.from_iterable(repeat(examples))
    return (features for _, features in islice(again, count))
