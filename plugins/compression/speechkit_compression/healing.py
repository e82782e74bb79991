"""Healing: a changed model is trained for some steps towards the scores of the original."""

import copy
import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from speechkit.checkpoint import load
from speechkit.errors import ConfigError, TrainingError
from speechkit.models import Model, Output, evaluating
from speechkit.nn import Chunk
from speechkit.probes import Examples
from speechkit.transforms import required
from speechkit_compression.weights import prunable


class Heal:
    """Trains the model for `steps` batches of the recordings towards the scores of `teacher`.

    `teacher` is a folder or the name of a bundled model, usually the one that the model was made
    from. The recordings need no targets. The report has the first and the last loss, in nats.
    Raises ConfigError if the teacher has other labels or another frame rate.
    """

    def __init__(self, teacher: str, steps: int = 100, lr: float = 2e-3) -> None:
        if steps < 1 or not lr > 0:
            raise ConfigError(f"heal: steps={steps}, lr={lr}; give 1 or more, and more than 0")
        self.teacher, self.steps, self.lr = teacher, steps, lr

    def __call__(self, model: Model, examples: Examples | None) -> tuple[Model, dict[str, Any]]:
        examples = required(examples, "heal")
        teacher = load(self.teacher)
        if (teacher.labels, teacher.frame_s) != (model.labels, model.frame_s):
            raise ConfigError(
                f"heal: {self.teacher} has {_about(teacher)}, the model {_about(model)}; give the "
                "model from which it was made"
            )
        student = copy.deepcopy(model)
        losses = heal(student, teacher, examples, self.steps, self.lr)
        return student, {"first_loss": losses[0], "last_loss": losses[-1]}


def heal(
    student: Model, teacher: Model, examples: Examples, steps: int, lr: float = 2e-3
) -> list[float]:
    """Trains `student` in place with AdamW for `steps` shuffled batches; returns each loss.

    The loss is `divergence` from the teacher, which does not change. The learning rate falls to 0
    as a cosine. Pruned weights stay 0. The student ends in evaluation. Source: Hinton et al.,
    arXiv:1503.02531.
    """
    losses: list[float] = []
    if not steps:
        return losses
    parameters = [p for p in student.parameters() if p.requires_grad]
    pruned = [(weight, weight == 0) for weight in prunable(student).values()]
    optimizer = torch.optim.AdamW(parameters, lr=lr)
    student.train()
    with evaluating(teacher), torch.enable_grad():
        for step, features in enumerate(_features(examples, steps)):
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
            with torch.no_grad():
                for weight, mask in pruned:
                    weight.masked_fill_(mask, 0)
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


def _about(model: Model) -> str:
    first = ", ".join(model.labels[:3])
    return f"{len(model.labels)} labels ({first} …) every {model.frame_s:g} s"


def _features(examples: Examples, count: int) -> Iterator[Chunk]:
    """The features of `count` batches."""
    return (features for _, features in islice(examples.shuffled(), count))
