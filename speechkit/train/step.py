"""The loss and gradients of one step; methods may compute them again."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from speechkit.data import Batch
from speechkit.errors import ComponentError, TrainingError
from speechkit.models import Model, Output
from speechkit.nn import Chunk
from speechkit.nn.collectives import weight
from speechkit.ops.native import sum_type
from speechkit.plugins import calling
from speechkit.tasks import Targets, Task
from speechkit.train.method import Method, overrides
from speechkit.train.resume import random_state, set_random_state

Drawn = tuple[Batch, Chunk]
"""A batch and its features."""
Draw = Callable[[], tuple[Batch, Callable[[], Chunk]]]
"""Draws a batch, and gives it with what computes its features."""


@dataclass(frozen=True)
class Objective:
    """The run's loss for each row of a batch, plus the losses of its methods.

    `unlabeled` `[N]` is True for utterances without a target. `extra` are the methods with an
    `extra_loss`; those with weights are wrapped by Fabric.
    """

    task: Task
    loss: Callable[..., Tensor]
    unlabeled: Tensor
    extra: Sequence[Any] = ()

    def __call__(self, batch: Batch, features: Chunk, output: Output) -> Tensor:
        """The losses of the rows whose targets have an alignment, at most `[B]`."""
        scores = output.scores.to(sum_type(output.scores.dtype))
        with calling(self.task.component, "targets"):
            targets = self.task.targets(batch, output)
        losses = self.loss(scores, output.lengths, *targets)
        losses = losses.masked_fill(self.unlabeled[batch.indices].to(losses.device), 0.0)
        for method in self.extra:
            given = [features] if method.wants_features else []
            with calling(method.component, "extra_loss"):
                more = method.extra_loss(batch, Output(scores, output.lengths), *given)
            if more is None:
                continue
            if getattr(more, "shape", None) != losses.shape:
                raise ComponentError(
                    f"{method.component}: extra_loss returns {_described(more)}; return a tensor "
                    f"{list(losses.shape)}, a loss for each utterance, or None"
                )
            if not more.isfinite().all():
                raise TrainingError(
                    f"{method.component}: extra_loss returns NaN or infinity for a batch of "
                    f"{', '.join(batch.names)}; give the method another weight, or leave it out"
                )
            losses = losses + more
        return self._possible(losses, output.lengths, targets)

    def _possible(self, losses: Tensor, lengths: Tensor, targets: Targets) -> Tensor:
        if not hasattr(self.loss, "possible"):
            return losses
        possible = self.loss.possible(lengths, *targets)
        return losses if possible.all() else losses[possible]


class Gradients:
    """Computes the gradients of a step of `accumulate` batches, more than once if methods ask."""

    def __init__(
        self,
        fabric: Any,
        model: Model,
        wrapped: Any,
        optimizer: torch.optim.Optimizer,
        objective: Objective,
        methods: Sequence[Method],
        accumulate: int,
    ) -> None:
        self.fabric, self.model, self.wrapped = fabric, model, wrapped
        self.optimizer, self.objective, self.accumulate = optimizer, objective, accumulate
        self.around = [method for method in methods if overrides(method, "gradients")]
        self.stateful = nn.ModuleList([model, *(m for m in methods if isinstance(m, nn.Module))])

    def compute(self, draw: Draw, step: int) -> float:
        """Leaves the step's gradients in `.grad`, multiplied by fp16's scale; returns the loss."""
        if not self.around:
            drawn = (draw() for _ in range(self.accumulate))
            return self._pass(((batch, compute()) for batch, compute in drawn), step)
        scaler = getattr(self.fabric.strategy.precision, "scaler", None)
        scale = 1.0 if scaler is None else scaler.get_scale()
        again: Callable[[], float] = partial(self._again, self._repeatable(draw), scale, step)
        for method in self.around:
            again = partial(self._around, method, again, step)
        loss = again()
        self._multiply(scale)
        return loss

    def _around(self, method: Method, again: Callable[[], float], step: int) -> float:
        """The method's `gradients`; errors of the passes within are not the method's."""
        inner: list[Exception] = []

        def passes() -> float:
            try:
                return again()
            except Exception as error:
                inner.append(error)
                raise

        try:
            with calling(method.component, "gradients"):
                loss = method.gradients(passes, self.model, step)
        except ComponentError as error:
            if error.__cause__ in inner:
                raise error.__cause__ from None
            raise
        if loss is None:
            raise ComponentError(
                f"{method.component}: gradients returns None; return the loss that again() gave"
            )
        return loss

    def _again(self, passes: Iterator[Iterator[Drawn]], scale: float, step: int) -> float:
        loss = self._pass(next(passes), step)
        self._multiply(1 / scale)
        return loss

    def _repeatable(self, draw: Draw) -> Iterator[Iterator[Drawn]]:
        """Yields the batches of the step, then the same batches again and again, each time with
        the random numbers and buffers of the first pass. Features are kept, unless the front end
        learns: then they follow its weights, and each backward pass needs a graph of its own."""
        device = self.fabric.device
        before = {name: buffer.clone() for name, buffer in self.stateful.named_buffers()}
        kept: list[tuple[Batch, Chunk, Callable[[], Chunk], dict[str, Tensor]]] = []

        def first() -> Iterator[Drawn]:
            for _ in range(self.accumulate):
                batch, compute = draw()
                before_features = random_state(device)
                features = compute()
                learns = features.x.requires_grad
                state = before_features if learns else random_state(device)
                kept.append((batch, features, compute, state))
                yield batch, features

        def repeated() -> Iterator[Drawn]:
            for name, buffer in self.stateful.named_buffers():
                buffer.copy_(before[name])
            for batch, features, compute, state in kept:
                set_random_state(state, device)
                yield batch, compute() if features.x.requires_grad else features

        yield first()
        while True:
            yield repeated()

    def _pass(self, batches: Iterable[Drawn], step: int) -> float:
        """Forward and backward passes over the batches, starting with gradients of None."""
        self.optimizer.zero_grad()
        total = 0.0
        for index, (batch, features) in enumerate(batches):
            accumulating = index + 1 < self.accumulate
            with self.fabric.no_backward_sync(self.wrapped, enabled=accumulating):
                # Fabric applies autocast only in `forward`
                with self.fabric.autocast():
                    output = self.wrapped.score(features)
                losses = self.objective(batch, features, output)
                # with no row left, the loss is 0 but has gradients, which other processes wait for
                loss = losses.mean() if len(losses) else 0 * output.scores.sum()
                loss = loss * weight(self.fabric, len(losses)) / self.accumulate
                _check_finite(loss, step, batch)
                self.fabric.backward(loss)
            total += loss.item()
        return total

    def _multiply(self, factor: float) -> None:
        if factor != 1:
            for group in self.optimizer.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.grad.mul_(factor)


def _described(value: Any) -> str:
    shape = f" {list(value.shape)}" if isinstance(value, Tensor) else ""
    return f"an object of type {type(value).__name__}{shape}"


def _check_finite(loss: Tensor, step: int, batch: Batch) -> None:
    if not torch.isfinite(loss):
        raise TrainingError(
            f"loss is {loss.item()} at step {step}; the batch holds {', '.join(batch.names)}; "
            "look at these files, lower the learning rate or set clip_norm"
        )
