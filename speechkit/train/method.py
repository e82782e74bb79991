"""The interface of training methods: calls that the loop makes, all optional."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from speechkit.data import Batch, UtteranceDataset, seeded_generator
from speechkit.errors import TrainingError
from speechkit.models import Model, Output
from speechkit.tasks import task_of
from speechkit.train.optim import parameter_groups


class Method:
    """Base class of training methods: changes to training beyond the loss and the optimizer.

    Every call does nothing by default. The calls in the order of a step, where `step` counts from
    1:

        extra_loss   for each batch, after the model's forward pass
        gradients    around the forward and backward passes of the step
        before_step  after clipping, before the optimizer
        after_step   after the optimizer
        after_average  after the update of the averaged weights, in runs that have them

    If a run has several methods, each call is made in the order in which the run names them; the
    `gradients` of a later one wraps that of an earlier one.

    A method that is also a `torch.nn.Module` keeps its state in parameters and buffers. They are
    saved with the run, restored to the bit and equal in all processes at the first step. State that
    is kept elsewhere is lost when a run is resumed.
    """

    views: int = 1
    """The number of copies of each utterance in a batch, each with its own feature augmentations:
    rows 0 to B - 1, then the same utterances again."""
    needs_no_text: bool = False
    """True if training utterances may lack a text; only methods then use them."""
    wants_features: bool = False
    """True if `extra_loss` takes the model's input features as a third argument."""
    component: str = "method"
    """The kind, plugin and name of its component, for messages; the loop sets it."""
    run_seed: int = 0
    """The seed of the run; the loop sets it before `start`."""

    def start(self, model: Model, dataset: UtteranceDataset) -> None:
        """Called once before the first step, on the CPU, and in a dry run: finds layers, makes
        state, and raises an error if the model or the data do not fit."""

    def prepare(self, model: Model, dataset: UtteranceDataset) -> None:
        """Called after `start`, but not in a dry run: takes a long time or writes files."""

    def extra_loss(self, batch: Batch, output: Output, *features: Any) -> Tensor | None:
        """Losses `[B]` that are added to the run's own, or None."""
        return None

    def gradients(self, again: Callable[[], float], model: Model, step: int) -> float:
        """Leaves the step's gradients in `.grad` and returns its loss.

        `again()` clears them, computes those of the whole step at the current weights, averaged
        over processes, and returns the loss. It may be called several times: batches, features,
        dropout and buffers are the same each time. Features of a front end with weights to train
        are computed again with its current weights.
        """
        return again()

    def before_step(self, model: Model, step: int) -> None:
        """May change the gradients that the optimizer will read."""

    def after_step(self, model: Model, step: int, optimizer: torch.optim.Optimizer) -> None:
        """May change the weights, and the optimizer's state."""

    def after_average(self, average: Model, step: int) -> None:
        """May change the averaged weights, which are evaluated and saved."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The parameters that the optimizer trains: by default all of an `nn.Module`."""
        return parameter_groups(self) if isinstance(self, nn.Module) else []

    def generator(self, step: int, device: torch.device | str = "cpu") -> torch.Generator:
        """The method's random numbers for a step, 0 for `start`.

        They depend only on the run's seed, the step and the method's class, so they are the same in
        every process and after resuming.
        """
        return seeded_generator(f"{self.run_seed}/{step}/{type(self).__qualname__}", device)


def overrides(method: Method, call: str) -> bool:
    """True if a method overrides a call."""
    return getattr(type(method), call) is not getattr(Method, call)


def check_decodes(method: str, model: Model) -> None:
    """Raises TrainingError unless the model's scores are log-probabilities of CTC."""
    if not task_of(model).decodes:
        raise TrainingError(
            f"method {method} works on log-probabilities of CTC, and a {model.config.kind} with "
            f"head={model.config.head} has none; train a net with head=ctc, or leave the method out"
        )
