"""Leaves out the blocks in a row that turn a frame least, and heals the net."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from speechkit.errors import ConfigError
from speechkit.models import Model
from speechkit.probes import Examples
from speechkit.probes.flows import flows
from speechkit.transforms import check_components, required
from speechkit_compression.depth import TAKES, along, spans, whole
from speechkit_compression.healing import heal
from speechkit_compression.similarity import angle, means


@dataclass(frozen=True)
class DepthPrune:
    """Leaves out the `n` blocks in a row with the smallest angle between their input and output.

    The angle is arccos(cos(x, y)) / π, the mean over the valid frames of the examples, for residual
    blocks that together return the width they read; of equal ones the first are left out. Then
    all weights of the net are trained towards the scores of the given one, for `heal` batches of
    the examples. The paper heals with low-rank weights and takes the last frame. ConfigError for
    a net of other components and where no `n` blocks fit. Source: Gromov et al., arXiv:2403.17887.
    """

    n: int
    heal: int = 0

    def __post_init__(self) -> None:
        if self.heal < 0:
            raise ConfigError(f"depth_prune: heal={self.heal}; give 0 or more batches")

    def __call__(self, model: Model, examples: Examples | None) -> tuple[Model, dict[str, Any]]:
        check_components("depth_prune", model.config, TAKES)
        examples = required(examples, "depth_prune")
        counts = range(1, len(model.config.rows()))
        firsts = {count: fit for count in counts if (fit := spans(model.config, count))}
        if self.n and self.n not in firsts:
            raise ConfigError(
                f"depth_prune: n={self.n}; give a number of residual blocks in a row that return "
                f"the width they read: {', '.join(map(str, (0, *firsts)))}"
            )
        found = means(_angles(model, examples, firsts))
        angles = {
            count: {first: found[count, first] for first in fit} for count, fit in firsts.items()
        }
        first = min(angles[self.n], key=angles[self.n].__getitem__) if self.n else 0
        blocks = list(range(first, first + self.n))
        made = along(model, [step for step in whole(model.config) if step.block not in blocks])
        losses = heal(made, model, examples, self.heal)
        return made, {"blocks": blocks, "angles": angles, "loss": losses[-1:]}


def _angles(
    model: Model, examples: Examples, firsts: dict[int, list[int]]
) -> Iterator[dict[tuple[int, int], Tensor]]:
    """The angle `[N]` of each frame of a batch, for each number of blocks and the first of them."""
    for batch in flows(model, examples):
        yield {
            (count, first): angle(batch[first].x, batch[first + count - 1].y)
            for count, fit in firsts.items()
            for first in fit
        }
