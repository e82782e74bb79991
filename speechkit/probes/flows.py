"""What flows through the residual blocks of a net."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from speechkit.component import Spec
from speechkit.errors import ConfigError
from speechkit.models import Model, evaluating
from speechkit.nn import Chunk, Residual, Taps
from speechkit.plugins import registry
from speechkit.probes.examples import Examples


class Flow(NamedTuple):
    """One block of the encoder, counted from 0, over the valid frames of a batch, `[frames, C]`.

    `skip` and `body` are what a residual block adds, before its activation; None in other blocks.
    """

    block: int
    x: Tensor
    skip: Tensor | None
    body: Tensor | None
    y: Tensor


class Flows:
    """Records the flows of all blocks of a model.

        with Flows(model) as record:
            output = model.score(features)
        blocks = record.take()

    The model is in evaluation. ConfigError for a stack that is not `serial`.
    """

    def __init__(self, model: Model) -> None:
        blocks = blocks_of(model)
        layers = dict(blocks)
        for name, part in residuals(model).items():
            layers |= {f"{name}.skip": part.shortcut, f"{name}.body": part.body}
        self._names = list(blocks)
        self._taps = Taps(layers)

    def take(self) -> list[Flow]:
        """The flows of the last call of the model, in the order of the net."""
        calls = {name: (args[0], y) for name, _, args, y in self._taps.take()}

        def output(name: str) -> Tensor | None:
            return _frames(calls[name][1]) if name in calls else None

        return [
            Flow(
                int(name),
                _frames(calls[name][0]),
                output(f"{name}.skip"),
                output(f"{name}.body"),
                _frames(calls[name][1]),
            )
            for name in self._names
        ]

    def __enter__(self) -> "Flows":
        return self

    def __exit__(self, *_: object) -> None:
        self._taps.remove()


def blocks_of(model: Model) -> dict[str, nn.Module]:
    """The blocks of the encoder by number; ConfigError for a stack that is not `serial`."""
    stack = Spec.parse(model.config.stack)
    if registry().find("stack", stack.name).qualified_name != "core/serial":
        raise ConfigError(
            f"the blocks of stack={stack} do not follow each other; give a model with stack=serial"
        )
    return dict(model.encoder.named_children())


def residuals(model: Model) -> dict[str, Residual]:
    """The sums of shortcut and body, by the number of their block."""
    return {
        name: part
        for name, block in model.encoder.named_children()
        for part in block.children()
        if isinstance(part, Residual)
    }


@torch.no_grad()
def flows(model: Model, examples: Examples) -> Iterator[list[Flow]]:
    """The flows of all blocks for each batch of the examples, in the order of the net."""
    with Flows(model) as record:
        for _, features in examples:
            with evaluating(model):
                model.score(features)
            yield record.take()


def _frames(c: Chunk) -> Tensor:
    return c.x.transpose(1, 2)[c.valid]
