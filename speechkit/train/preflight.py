"""What is checked before a run's first step: its components, and its texts against its frames."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from speechkit.data import Utterance
from speechkit.errors import ComponentError, TrainingError
from speechkit.evaluation import evaluating
from speechkit.models import Model
from speechkit.models.net import Name
from speechkit.plugins import registry
from speechkit.processes import warn
from speechkit.tasks import Task

NEEDED = {
    "method": ("start", "extra_loss"),
    "loss": ("__call__",),
    "optimizer": ("param_groups", "step", "zero_grad", "state_dict", "load_state_dict"),
    "schedule": ("__call__",),
    "augmentation": ("__call__", "domain"),
}
"""What training uses of a component of each kind."""


def built(kind: str, spec: Name, *args: Any, **kw: Any) -> Any:
    """The component; ComponentError where it lacks what training uses of it."""
    made = registry().build(kind, spec, *args, **kw)
    if missing := [name for name in NEEDED[kind] if not hasattr(made, name)]:
        raise ComponentError(
            f"{kind} {spec} makes an object of type {type(made).__name__} without "
            f"{', '.join(missing)}; see docs/hooks.md for what its factory returns"
        )
    return made


def check_targets(
    train: Sequence[Utterance],
    dev: Sequence[Utterance],
    task: Task,
    target: Callable[[Utterance], Tensor],
    loss_of: Any,
    model: Model,
) -> None:
    """Raises ManifestError for an utterance without a target, and TrainingError where no text can
    be spelled in its utterance's frames; warns where some cannot."""
    for utterance in dev:
        task.encode(utterance)
    targets = [target(utterance) for utterance in train]
    if not hasattr(loss_of, "possible"):
        return
    exact_frames = cache(partial(_frames, model))
    impossible = []
    for utterance, row in zip(train, targets, strict=True):
        # front ends and strides round: what is near the bound is counted exactly
        length, about = torch.tensor([len(row)]), int(utterance.duration_s / model.frame_s) - 3
        if not loss_of.possible(torch.tensor([about]), row[None], length):
            frames = exact_frames(max(1, round(utterance.duration_s * model.sample_rate)))
            if not loss_of.possible(torch.tensor([frames]), row[None], length):
                impossible.append((utterance, len(row), frames))
    if not impossible:
        return
    utterance, labels, frames = impossible[0]
    message = (
        f"{len(impossible)} of {len(train)} utterances are too short for their text, such as "
        f"{utterance.place}: {labels} labels in {frames} frames of {1000 * model.frame_s:g} ms"
    )
    if len(impossible) == len(train):
        raise TrainingError(f"{message}; correct the texts, or use a model with a smaller stride")
    warn(f"{message}; they do not count")


def _frames(model: Model, samples: int) -> int:
    """The frames of scores for so many samples."""
    with evaluating(model), torch.inference_mode():
        return int(model(torch.zeros(1, samples)).lengths)
