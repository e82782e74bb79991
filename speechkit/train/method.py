"""What a training method is: calls that the loop makes, each of which may be left out."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from speechkit.data import Batch, UtteranceDataset, seeded_generator
from speechkit.models import Model, Output
from speechkit.train.optim import parameter_groups


class Method:
    """Something done in training beside the loss and the optimizer; every call does nothing here.

    The calls in the order of a step, for which `step` counts from 1:

        extra_loss   for each batch, behind the model's forward pass
        gradients    around the forward and backward passes of the step
        before_step  behind clipping, before the optimizer
        after_step   behind the optimizer
        after_average  behind the averaged weights, in runs that have them

    Where a run has several methods, each call is made in the order in which the run names them;
    the `gradients` of a later one is around that of an earlier one.

    A method that is a `torch.nn.Module` too keeps its state in parameters and buffers: they are
    saved with the run, restored to the bit and equal in all processes at the first step. Whatever a
    call keeps elsewhere is lost when a run goes on.
    """

    views: int = 1
    """How often a batch holds each of its utterances, with feature augmentations of its own each
    time: rows 0 to B - 1, then the same again."""
    needs_no_text: bool = False
    """True where training utterances may lack a text; they then count for methods alone."""
    wants_features: bool = False
    """True for the features that the model was given as a third argument of `extra_loss`."""
    run_seed: int = 0
    """The seed of the run, which the loop sets before `start`."""

    def start(self, model: Model, dataset: UtteranceDataset) -> None:
        """Once before the first step, on the CPU, and in a dry run: finds its layers, makes its
        state, raises where the model or the data do not fit."""

    def prepare(self, model: Model, dataset: UtteranceDataset) -> None:
        """Behind `start`, in no dry run: what takes long or writes files."""

    def extra_loss(self, batch: Batch, output: Output, *features: Any) -> Tensor | None:
        """Losses `[B]` that are added to the run's own, or None."""
        return None

    def gradients(self, again: Callable[[], float], model: Model, step: int) -> float:
        """Leaves the step's gradients in `.grad` and returns its loss.

        `again()` clears them, computes those of the whole step at the model's weights as they are,
        averaged over processes, and returns the loss. It may be called several times: batches,
        features, dropout and buffers are the same each time.
        """
        return again()

    def before_step(self, model: Model, step: int) -> None:
        """May change the gradients that the optimizer will read."""

    def after_step(self, model: Model, step: int, optimizer: torch.optim.Optimizer) -> None:
        """May change the weights, and the optimizer's state."""

    def after_average(self, average: Model, step: int) -> None:
        """May change the averaged weights, which are evaluated and saved."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What of it the optimizer trains: by default all parameters of an `nn.Module`."""
        return parameter_groups(self) if isinstance(self, nn.Module) else []

    def generator(self, step: int, device: torch.device | str = "cpu") -> torch.Generator:
        """The method's random numbers of a step, 0 for `start`: a function of the run's seed, the
        step and the method's class, so the same in every process and in a run that goes on."""
        return seeded_generator(f"{self.run_seed}/{step}/{type(self).__qualname__}", device)


def overrides(method: Method, call: str) -> bool:
    """True where a method has a call of its own."""
    return getattr(type(method), call) is not getattr(Method, call)
