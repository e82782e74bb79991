"""Checks before the first step of a run: its components, and its texts against their frames."""

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from textwrap import shorten
from typing import Any, TypeVar

import torch
from torch import Tensor

from speechkit.component import Spec
from speechkit.data import Joining, Utterance, UtteranceDataset, collate
from speechkit.errors import ComponentError, TrainingError
from speechkit.models import Model, Output, evaluating
from speechkit.models.net import Name
from speechkit.plugins import calling, registry
from speechkit.tasks import Task
from speechkit.train.distributed import FSDP, warn
from speechkit.train.losses import Nothing
from speechkit.train.method import Method, overrides
from speechkit.train.run import Run

T = TypeVar("T")

NEEDED = {
    "loss": ("__call__",),
    "optimizer": ("param_groups", "step", "zero_grad", "state_dict", "load_state_dict"),
    "schedule": ("__call__",),
    "augmentation": ("__call__", "domain"),
}
"""The attributes that training uses of a component of each kind."""
TEACH = ("extra_loss", "gradients", "before_step", "after_step")
"""The calls of a method by which a model may learn without a loss."""
WHOLE_WEIGHTS = ("gradients", "before_step", "after_step")
"""The calls of a method that read or change weights and gradients."""


def built(kind: str, spec: Name, *args: Any, **kw: Any) -> Any:
    """Builds a component; raises ComponentError where it lacks an attribute that training uses."""
    made = registry().build(kind, spec, *args, **kw)
    if missing := [name for name in NEEDED[kind] if not hasattr(made, name)]:
        raise ComponentError(
            f"{kind} {spec} makes an object of type {type(made).__name__} without "
            f"{', '.join(missing)}; see docs/hooks.md for what its factory returns"
        )
    return made


def built_methods(run: Run) -> list[Method]:
    """The run's methods; raises TrainingError if one needs full weights and FSDP shards them."""
    methods = []
    for spec in run.method:
        method = registry().derived("method", spec, Method)
        needs = [call for call in WHOLE_WEIGHTS if overrides(method, call)]
        if needs and run.strategy == FSDP and run.devices * run.nodes > 1:
            raise TrainingError(
                f"method {spec} works on whole weights in {' and '.join(needs)}, but strategy=fsdp "
                "spreads them over processes; give strategy=ddp"
            )
        method.run_seed = run.seed
        methods.append(method)
    return methods


def check_learns(loss_of: Any, spec: Name, task: Task, methods: Sequence[Method]) -> None:
    """Raises TrainingError where there is neither a loss nor a method to learn from."""
    teach = any(overrides(method, call) for method in methods for call in TEACH)
    if isinstance(loss_of, Nothing) and not teach:
        origin = (
            f"; {task.component} names no other" if Spec.parse(task.loss).name == "none" else ""
        )
        raise TrainingError(
            f"nothing to learn from: the loss is {spec}{origin}; set loss to a component, or give "
            "a method with a loss"
        )


def check_joins(join: Joining | None, task: Task) -> None:
    """Raises TrainingError where utterances are joined that have one label each."""
    if join is not None and task.per_clip:
        raise TrainingError(
            f"{type(join).__name__} joins utterances, and a {task.config.kind} gives each one "
            "label; leave it out of augment"
        )


def check_schedule(schedule: Any, spec: Name) -> None:
    """Raises ComponentError unless the factor of the first step is a finite number from 0 up."""
    factor = _tried(f"schedule {spec}", lambda: float(schedule(0)))
    if not 0 <= factor < math.inf:
        raise ComponentError(
            f"schedule {spec}: the factor of step 0 is {factor:g}; a finite number from 0 up is "
            "expected"
        )


def check_loss(
    loss_of: Any, spec: Name, task: Task, model: Model, dataset: UtteranceDataset
) -> None:
    """Raises ComponentError unless a batch of two utterances gets a loss for each."""
    batch = collate([dataset[index] for index in range(min(2, len(dataset)))])
    with evaluating(model), torch.inference_mode():
        output: Output = model(batch.audio, batch.lengths)
        with calling(task.component, "targets"):
            targets = task.targets(batch, output)
        what = f"loss {spec} of a {model.config.kind}'s scores {list(output.scores.shape)}"
        other = Spec.parse(spec) != Spec.parse(task.loss)
        advice = f"; {task.component} expects loss={task.loss}" if other else ""
        losses = _tried(what, lambda: loss_of(output.scores, output.lengths, *targets), advice)
    if getattr(losses, "shape", None) != output.lengths.shape:
        raise ComponentError(
            f"{what}: shape {list(getattr(losses, 'shape', []))}, expected "
            f"{list(output.lengths.shape)}, a loss for each utterance{advice}"
        )


def _tried(what: str, call: Callable[[], T], advice: str = "") -> T:
    """Calls a component; raises ComponentError with the first line of whatever it raises."""
    try:
        return call()
    # a component may raise any exception
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ComponentError(
            f"{what}: {type(error).__name__}: {shorten(reason, 200)}{advice}"
        ) from error


def check_targets(
    train: Sequence[Utterance],
    dev: Sequence[Utterance],
    task: Task,
    target: Callable[[Utterance], Tensor],
    loss_of: Any,
    model: Model,
) -> None:
    """Raises ManifestError for an utterance without a target. Warns of texts that need more frames
    than their utterance has; raises TrainingError if all do."""
    with calling(task.component, "encode"):
        for utterance in dev:
            task.encode(utterance)
        targets = [target(utterance) for utterance in train]
    if not hasattr(loss_of, "possible"):
        return
    exact_frames = cache(partial(_frames, model))
    impossible = []
    for utterance, row in zip(train, targets, strict=True):
        # front ends and strides round, so near the bound frames are counted exactly
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


def check_augmented(dataset: UtteranceDataset, loss_of: Any, model: Model) -> None:
    """Raises TrainingError where augmentations leave no utterance enough frames for its text."""
    if not hasattr(loss_of, "possible"):
        return
    first = ""
    for index, utterance in enumerate(dataset.utterances):
        item = dataset[index]
        frames, labels = _frames(model, len(item.audio)), len(item.target)
        if loss_of.possible(torch.tensor([frames]), item.target[None], torch.tensor([labels])):
            return
        first = first or f"{utterance.place}: {labels} labels in {frames} frames"
    raise TrainingError(
        f"augmented, all {len(dataset)} utterances are too short for their text, such as {first} "
        f"of {1000 * model.frame_s:g} ms; lower the speed, or use a model with a smaller stride"
    )


def _frames(model: Model, samples: int) -> int:
    """The number of frames of scores for `samples` samples."""
    with evaluating(model), torch.inference_mode():
        return int(model(torch.zeros(1, samples)).lengths)
