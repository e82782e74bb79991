"""What flows through the residual blocks of a net."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from speechkit.models import Model
from speechkit.nn import Chunk, Residual, Taps
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


@torch.no_grad()
def flows(model: Model, examples: Examples) -> Iterator[list[Flow]]:
    """The flows of all blocks for each batch of the examples, in the order of the net.

    The stack must be `serial`.
    """
    blocks = dict(model.encoder.named_children())
    residuals = {
        name: part
        for name, block in blocks.items()
        for part in block.children()
        if isinstance(part, Residual)
    }
    layers = dict(blocks)
    for name, part in residuals.items():
        layers |= {f"{name}.skip": part.shortcut, f"{name}.body": part.body}
    with Taps(layers) as taps:
        for _, features in examples:
            model.score(features)
            calls = {name: (args[0], y) for name, _, args, y in taps.take()}

            def output(name: str, calls: dict[str, tuple[Chunk, Chunk]] = calls) -> Tensor | None:
                return _frames(calls[name][1]) if name in calls else None

            yield [
                Flow(
                    int(name),
                    _frames(calls[name][0]),
                    output(f"{name}.skip"),
                    output(f"{name}.body"),
                    _frames(calls[name][1]),
                )
                for name in blocks
            ]


def _frames(c: Chunk) -> Tensor:
    return c.x.transpose(1, 2)[c.valid]
