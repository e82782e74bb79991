"""A smaller net of the same family, the best of many that a policy tries."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache
from itertools import compress, islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from speechkit.data import Batch
from speechkit.errors import ComponentError, ConfigError, TrainingError
from speechkit.models import Block, Model
from speechkit.models.net import EACH, Net
from speechkit.models.profile import profile
from speechkit.nn import Chunk
from speechkit.nn.seeded import seeded
from speechkit.probes import Examples
from speechkit.tasks import task_of
from speechkit.tasks.base import error_of, metrics_of
from speechkit.transforms import check_components, required
from speechkit.transforms.rows import Row, with_rows
from speechkit_compression.healing import heal
from speechkit_compression.policy import Choices, Policy, search
from speechkit_compression.split import split

TAKES = {"stack": ("core/serial",)}
SHARES = (0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""The shares of a row's channels that `shrinkage` chooses from."""
MOST_LISTED = 50
"""The number of students in the report, the best ones."""


Maker = Callable[[Model, Sequence[float], int], Model]
"""Makes a student from the model, an option for each place, and a seed."""


class Tried(NamedTuple):
    """A student's reward, its size and its accuracy on the held-out recordings."""

    reward: float
    size: int = 0
    accuracy: float = 0.0


class N2N:
    """The student with the largest reward R = a · C (2 − C) of those that a policy tries.

    a = accuracy / the model's accuracy, C = 1 − size / the model's size, in `parameters` or `macs`.
    In the stage `removal` the policy chooses which sub-blocks behind the stem stay; rows with a
    stride always do. In `shrinkage` it chooses a share of the channels of each row. A student
    begins with the weights of the rows that stay, in narrower rows those of the first channels, and
    is trained for `steps` batches towards the model's scores; R = −1 if it cannot be. The policy
    draws `rollouts` students in each of `epochs` epochs and learns by REINFORCE with the rate `lr`;
    `lr=0` is random search. The best student is made again with `final_steps` batches. The accuracy
    is 1 − the error of the task on every fifth recording, which no student is trained on.
    ConfigError for a net without a choice, and if no student has R > 0. Source: Ashok et al.,
    arXiv:1709.06030, whose policies are LSTMs that read a description of each layer.
    """

    def __init__(
        self,
        stage: str = "removal",
        size: str = "parameters",
        epochs: int = 12,
        rollouts: int = 5,
        steps: int = 60,
        final_steps: int = 600,
        lr: float = 0.2,
    ) -> None:
        if stage not in ("removal", "shrinkage") or size not in SIZES:
            raise ComponentError(
                f"n2n: stage={stage}, size={size}; give removal or shrinkage, and parameters or "
                "macs"
            )
        if min(epochs, rollouts, steps) < 1 or final_steps < 0 or not lr >= 0:
            raise ComponentError(
                f"n2n: epochs={epochs}, rollouts={rollouts}, steps={steps}, "
                f"final_steps={final_steps}, lr={lr}; give 1 or more of the first three, and 0 or "
                "more of the others"
            )
        self.stage, self.size = stage, size
        self.epochs, self.rollouts, self.lr = epochs, rollouts, lr
        self.steps, self.final_steps = steps, final_steps

    @torch.no_grad()
    def __call__(self, model: Model, examples: Examples | None) -> tuple[Model, dict[str, Any]]:
        check_components("n2n", model.config, TAKES)
        training, held_out = _split(required(examples, "n2n"))
        make, options, places = self._stage(model.config)
        judge = Judge(model, held_out, self.size)

        def student(choices: Choices, steps: int) -> Model:
            with seeded(training.seed):
                made = make(model, [options[choice] for choice in choices], training.seed)
                heal(made, model, training, steps)
            return made

        @cache
        def tried(choices: Choices) -> Tried:
            try:
                return judge(student(choices, self.steps))
            except (ConfigError, ComponentError, TrainingError):
                return Tried(-1.0)

        policy = Policy(places, len(options))
        with torch.enable_grad():
            drawn = list(
                search(policy, lambda c: tried(c).reward, self.epochs, self.rollouts, self.lr)
            )
        choices = {each for epoch in drawn for each, _ in epoch}
        ranked = sorted(choices, key=lambda each: (tried(each), each), reverse=True)
        if tried(ranked[0]).reward <= 0:
            raise ConfigError(
                f"n2n: none of {len(ranked)} students has a reward above 0; give more epochs or "
                "steps"
            )
        made = student(ranked[0], self.final_steps)
        return made, {
            "model": {self.size: judge.size, "accuracy": judge.accuracy},
            "student": self._plain(judge(made)),
            "mean_reward": [sum(each for _, each in epoch) / len(epoch) for epoch in drawn],
            "tried": len(ranked),
            "best": [
                {"choices": " ".join(str(options[choice]) for choice in each)}
                | self._plain(tried(each))
                for each in ranked[:MOST_LISTED]
            ],
        }

    def _stage(self, config: Net) -> tuple[Maker, tuple[float, ...], int]:
        """What makes a student, the options, and the number of places with a choice."""
        if self.stage == "shrinkage":
            return narrower, SHARES, len(config.rows())
        places = sum(row.repeat for row, _ in config.rows()[1:] if row.stride == 1)
        if not places:
            raise ConfigError("n2n: all rows behind the stem have a stride; none can be removed")
        return without, (0, 1), places

    def _plain(self, found: Tried) -> dict[str, float]:
        return {"reward": found.reward, self.size: found.size, "accuracy": found.accuracy}


class Judge:
    """The reward, the size and the accuracy of students of a model.

    `size` and `accuracy` are the model's own. ConfigError if its accuracy is 0.
    """

    def __init__(self, model: Model, held_out: Examples, measure: str) -> None:
        self._measure = SIZES[measure]
        self._examples, self._batches = held_out, list(held_out)
        self.size = self._measure(model)
        self.accuracy = accuracy(model, held_out, self._batches)
        if not self.accuracy:
            raise ConfigError("n2n: the accuracy of the model on every fifth recording is 0")

    def __call__(self, student: Model) -> Tried:
        size = self._measure(student)
        right = accuracy(student, self._examples, self._batches)
        return Tried(reward(right / self.accuracy, size / self.size), size, right)


def reward(accuracy: float, size: float) -> float:
    """R = a · C (2 − C), C = 1 − `size`; both arguments are shares of the model's own."""
    saved = 1 - size
    return accuracy * saved * (2 - saved)


def without(model: Model, stays: Sequence[float], seed: int) -> Model:
    """The net without the sub-blocks for which `stays` is 0.

    `stays` has an entry for each sub-block behind the stem, except those of rows with a stride. A
    row keeps the weights of its first sub-blocks, as many as are left.
    """
    first, *rest = model.config.rows()
    rows: list[Row] = [first]
    origins = [0]
    entries = iter(stays)
    for origin, (row, ahead) in enumerate(rest, 1):
        kept = list(islice(entries, row.repeat)) if row.stride == 1 else [1.0]
        if any(kept):
            rows.append((_shorter(row, kept), ahead))
            origins.append(origin)
    return with_rows(model, rows, origins, seed)


def _shorter(row: Block, kept: Sequence[float]) -> Block:
    """The row with the sub-blocks for which `kept` is not 0."""
    own: dict[str, Any] = {
        name: tuple(compress(value, kept))
        for name in EACH
        if isinstance(value := getattr(row, name), tuple)
    }
    return replace(row, repeat=sum(map(bool, kept)), **own)


def narrower(model: Model, shares: Sequence[float], seed: int) -> Model:
    """The net with a share of each row's channels, the stem first, and the weights of the first
    ones."""
    rows = [
        (replace(row, channels=max(1, round(share * row.channels))), ahead)
        for (row, ahead), share in zip(model.config.rows(), shares, strict=True)
    ]
    made = with_rows(model, rows, range(len(rows)), seed)
    old = model.state_dict()
    for name, value in made.state_dict().items():
        known = old.get(name)
        if known is not None and _fits(value, known):
            value.copy_(known[tuple(map(slice, value.shape))])
    return made


def _fits(value: Tensor, known: Tensor) -> bool:
    """True if `value` has the shape of a leading part of `known`."""
    return value.ndim == known.ndim and all(
        size <= most for size, most in zip(value.shape, known.shape, strict=True)
    )


def accuracy(model: Model, examples: Examples, batches: Iterable[tuple[Batch, Chunk]]) -> float:
    """1 − the error of the task, at least 0; `batches` are those of the examples."""
    task = task_of(model)
    references: list[Any] = []
    predictions: list[Any] = []
    for batch, features in batches:
        output = model.score(features)
        # refuses recordings without a target
        examples.targets(output, batch)
        references += task.references(batch, output)
        predictions += task.predictions(output)
    return max(0.0, 1 - error_of(task, metrics_of(task, references, predictions)))


def parameters(model: Model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def macs(model: Model) -> int:
    """Multiply-adds for one second of sound."""
    return profile(model).macs_per_s


SIZES = {"parameters": parameters, "macs": macs}


def _split(examples: Examples) -> tuple[Examples, Examples]:
    """The recordings to train on, and every fifth one, which is held out."""
    training, held_out = (
        Examples(examples.model, part, seed=examples.seed, batch_size=examples.batch_size)
        for part in split(examples.utterances, "n2n")
    )
    return training, held_out
