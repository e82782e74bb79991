"""The activations of a net one by one, and the same net with others in their places."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from math import prod
from typing import NamedTuple

from speechkit.component import Spec
from speechkit.errors import ConfigError
from speechkit.models import Model, Net
from speechkit.plugins import registry
from speechkit.transforms import check_components
from speechkit.transforms.rows import with_rows

TAKES = {"stem": ("core/plain",), "stack": ("core/serial",), "block": ("core/plain",)}
"""The components of a net whose activations are those of its rows."""


class Activation(NamedTuple):
    """An activation of a net, by its row, 0 for the stem, and its sub-block in that row.

    `stage` is the line of the config's table whose copy the row is. `per_frame` is the number of
    values that it computes for each frame of the encoder's output.
    """

    row: int
    sub: int
    stage: int
    per_frame: int
    spec: Spec

    @property
    def is_relu(self) -> bool:
        return qualified(self.spec) == "core/relu"


def activations(config: Net, transform: str) -> list[Activation]:
    """The activations of a net in its order.

    Raises ConfigError, with the name of the transform that asks, for a net with other blocks than
    `plain` and for a gated activation.
    """
    check_components(transform, config, TAKES)
    rows = [row for row, _ in config.rows()]
    stages = [stage for stage, block in enumerate(config.blocks) for _ in range(block.copies)]
    found = [
        Activation(
            row=index,
            sub=sub,
            stage=stages[index],
            per_frame=row.channels * prod(later.stride for later in rows[index + 1 :]),
            spec=Spec.parse(one.activation or config.activation),  # type: ignore[arg-type]
        )
        for index, row in enumerate(rows)
        for sub, one in enumerate(row.each())
    ]
    for each in found:
        refuse_gate(each.spec, transform)
    return found


def with_activations(model: Model, specs: Sequence[Spec], seed: int = 0) -> Model:
    """The same net with `specs` in the places of its activations, in evaluation.

    All weights are kept but those of activations that change. A row names its activations only
    where they differ from the net's.
    """
    config = model.config
    given = iter(specs)
    common = specs[0] if _are(specs, specs[0]) else Spec.parse(config.activation)

    def named(count: int) -> Spec | tuple[Spec, ...] | None:
        own = tuple(islice(given, count))
        if _are(own, common):
            return None
        return own[0] if _are(own, own[0]) else own

    rows = [(replace(row, activation=named(row.repeat)), ahead) for row, ahead in config.rows()]
    return with_rows(model, rows, range(len(rows)), seed, activation=common)


def relus_per_frame(found: Sequence[Activation]) -> int:
    """The ReLUs for each frame of the encoder's output."""
    return sum(each.per_frame for each in found if each.is_relu)


def refuse_gate(spec: Spec, transform: str) -> None:
    """Raises ConfigError for an activation that returns fewer channels than it reads."""
    if registry().find("activation", spec.name).component.in_factor > 1:
        raise ConfigError(
            f"transform {transform}: activation {spec} is gated; give one that keeps the number "
            "of channels"
        )


def qualified(spec: Spec) -> str:
    """The name of an activation with its plugin, such as `core/relu`."""
    return registry().find("activation", spec.name).qualified_name


def _are(specs: Sequence[Spec], spec: Spec) -> bool:
    return all(one == spec for one in specs)
