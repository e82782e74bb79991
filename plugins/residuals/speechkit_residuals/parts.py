"""Layers and checks that several designs share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from speechkit.errors import ComponentError, StreamError
from speechkit.nn import (
    AveragePool,
    BodyMaker,
    Chunk,
    DenseConv,
    Dropout,
    FrameWise,
    Multiply,
    Pointwise,
    Residual,
    RunningAverage,
    Serial,
    State,
    StreamLayer,
)


class UtteranceAverage(StreamLayer):
    """The mean of each row's valid frames, at every frame. Shape: `[B, C, T]` → the same."""

    left = right = math.inf

    def forward(self, c: Chunk) -> Chunk:
        mean = AveragePool()(c).x.transpose(1, 2)
        # a copy for each frame: later layers need frames that lie one after another
        return Chunk(mean.repeat(1, c.x.shape[2], 1).transpose(1, 2), c.valid)

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        raise StreamError(
            "squeeze and excitation with context=utterance reads the whole utterance; use "
            "context=running to stream"
        )


def squeeze_excite(channels: int, reduction: int = 8, context: str = "running") -> Residual:
    """y = x · sigmoid(V ReLU(U m)), m the mean of the valid frames: so far, or of the utterance.

    The mean so far is that of the utterance at a row's last frame. U `[C / reduction, C]`. Hu et
    al., arXiv:1709.01507.
    """
    inner = max(1, channels // reduction)
    gate = Serial(
        mean=RunningAverage() if context == "running" else UtteranceAverage(),
        squeeze=Pointwise(channels, inner, bias=True),
        relu=FrameWise(nn.ReLU()),
        excite=Pointwise(inner, channels, bias=True),
        sigmoid=FrameWise(nn.Sigmoid()),
    )
    return Residual(StreamLayer(), gate, Multiply())


def convolution(make_body: BodyMaker, c_in: int, c_out: int) -> Serial:
    """A sub-block without its norm: mixer and channel layer, or one dense convolution."""
    shape = make_body.kernel, make_body.stride, make_body.dilation, make_body.lookahead
    if not make_body.separable:
        return Serial(conv=DenseConv(c_in, c_out, *shape))
    mixer = make_body.mixer(c_in, *shape)
    return Serial(mixer=mixer, channel=make_body.channel(c_in, c_out))


def before(make_body: BodyMaker, channels: int, dropout: float = 0.0) -> Serial:
    """Norm, activation and dropout before a convolution."""
    drop = {"dropout": FrameWise(Dropout(dropout))} if dropout else {}
    norm, activation = make_body.norm(channels), make_body.activation(channels)
    return Serial(norm=norm, activation=activation, **drop)


def pre_activated(
    make_body: BodyMaker, channels: Sequence[int], dropout: float = 0.0
) -> list[StreamLayer]:
    """Norm, activation and convolution from each number of channels to the next, with dropout.

    The first convolution has the row's stride.
    """
    layers: list[StreamLayer] = []
    for c_in, c_out in pairwise(channels):
        drop = (dropout or make_body.dropout) if layers else 0.0
        maker = replace(make_body, stride=1) if layers else make_body
        layers += before(make_body, c_in, drop), convolution(maker, c_in, c_out)
    return layers


def chosen(component: str, parameter: str, value: str, known: Sequence[str]) -> None:
    """Raises ComponentError unless the value is one of `known`."""
    if value not in known:
        raise ComponentError(f"{component}: {parameter}={value!r}; give {' or '.join(known)}")


def widths(stack: str, blocks: Sequence[StreamLayer]) -> list[int]:
    """The number of output channels of each block, which must not depend on its input."""
    found = []
    channels = 0
    for index, block in enumerate(blocks):
        channels = block.channels_out(channels)
        if not channels:
            raise ComponentError(
                f"stack {stack}: block {index} does not say how many channels it gives; "
                "start with a block that has a channel layer"
            )
        found.append(channels)
    return found


def cat_channels(parts: Sequence[Tensor]) -> Tensor:
    """Concatenates `[B, C, T]` tensors along channels and keeps them channels-last."""
    return torch.cat([part.transpose(1, 2) for part in parts], dim=2).transpose(1, 2)


def has_residual(block: StreamLayer) -> bool:
    """True if a block has a shortcut of any kind."""
    return any(isinstance(module, Residual) for module in block.modules())


def same_width(
    stack: str,
    blocks: Sequence[StreamLayer],
    joins: Callable[[StreamLayer], bool] = has_residual,
    opens: Callable[[StreamLayer], bool] = lambda block: False,
) -> list[list[StreamLayer]]:
    """Groups of blocks: each run of blocks that `joins` accepts, of one width and stride 1.

    A block that `opens` accepts is the first of a run whatever its width. Other blocks are alone.
    So is the first one if it does not open a run, since the stack does not have the width of its
    input.
    """
    groups: list[list[StreamLayer]] = []
    before, open_run = 0, False
    for block, width in zip(blocks, widths(stack, blocks), strict=True):
        even = (block.stride, block.rate) == (1, 1)
        joined = even and width == before and joins(block)
        if joined and open_run:
            groups[-1].append(block)
        else:
            groups.append([block])
        before, open_run = width, joined or (even and opens(block))
    return groups
