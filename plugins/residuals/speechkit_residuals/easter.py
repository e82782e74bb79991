"""Easter2.0's dense residual with squeeze and excitation, and TACo, arXiv:2205.14879."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor, nn

from speechkit.errors import ComponentError
from speechkit.nn import (
    Add,
    BatchNorm,
    FrameWise,
    Pointwise,
    Residual,
    RunningAverage,
    Serial,
    StreamLayer,
)
from speechkit_residuals.parts import cat_channels, chosen, widths
from speechkit_residuals.rglru import Multiply

FILLS = "noise", "min", "max", "mean"


def squeeze_excite(channels: int, reduction: int = 8) -> StreamLayer:
    """y = x · sigmoid(V ReLU(U m)), m the mean of the valid frames so far.

    At a row's last frame m is the mean of the utterance. U `[C / reduction, C]`. Hu et al.,
    arXiv:1709.01507.
    """
    inner = max(1, channels // reduction)
    gate = Serial(
        mean=RunningAverage(),
        squeeze=Pointwise(channels, inner, bias=True),
        relu=FrameWise(nn.ReLU()),
        excite=Pointwise(inner, channels, bias=True),
        sigmoid=FrameWise(nn.Sigmoid()),
    )
    return Residual(StreamLayer(), gate, Multiply())


class Part(nn.Module):
    """Some of the channels."""

    def __init__(self, start: int, end: int) -> None:
        super().__init__()
        self.start, self.end = start, end

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.start : self.end]


class Twice(nn.Module):
    """The channels two times over."""

    def forward(self, x: Tensor) -> Tensor:
        return cat_channels([x, x])


class Joint(nn.Module):
    """(ReLU(old + body), old) side by side."""

    def forward(self, old: Tensor, body: Tensor) -> Tensor:
        return cat_channels([(old + body).relu(), old])


def dense_easter(blocks: list[StreamLayer], reduction: int = 8) -> StreamLayer:
    """Units (data, old) → (ReLU(old' + SE(block(data))), old'), old' = norm(P old) + norm(Q data).

    So what was before reaches every unit through the chain of `old`, which begins as the first
    block's output. `reduction` 0 leaves squeeze and excitation out.
    """
    if reduction < 0:
        raise ComponentError(f"stack dense_easter: reduction={reduction}; give at least 1, or 0")
    channels = widths("dense_easter", blocks)
    first, *rest = blocks
    if not rest:
        return Serial(first=first)
    units: list[StreamLayer] = []
    before = (channels[0], channels[0])
    for block, width in zip(rest, channels[1:], strict=True):
        if (block.stride, block.rate) != (1, 1):
            raise ComponentError("stack dense_easter: a block with a stride; give it to the stem")
        units.append(_unit(block, before, width, reduction))
        before = width, width
    data = FrameWise(Part(0, channels[-1]), channels[-1])
    return Serial(
        first=first, twice=FrameWise(Twice(), 2 * channels[0]), units=Serial(*units), data=data
    )


def _unit(block: StreamLayer, given: tuple[int, int], width: int, reduction: int) -> StreamLayer:
    data, old = given
    parts: dict[str, StreamLayer] = {"data": FrameWise(Part(0, data), data), "block": block}
    if reduction:
        parts["excite"] = squeeze_excite(width, reduction)
    chain = Residual(
        Serial(part=FrameWise(Part(data, data + old), old), project=_projection(old, width)),
        Serial(part=FrameWise(Part(0, data), data), project=_projection(data, width)),
        Add(),
    )
    total = Residual(Serial(**parts), chain, Joint())
    return Serial(sum=total, both=FrameWise(nn.Identity(), 2 * width))


def _projection(c_in: int, c_out: int) -> Serial:
    return Serial(linear=Pointwise(c_in, c_out), norm=BatchNorm(c_out))


@dataclass(frozen=True)
class Taco:
    """Tiling and corruption: stretches of the features replaced by noise or one value.

    The time axis is cut into tiles of one random width of `min_frames` to `max_frames`; each is
    corrupted with chance `share`, by uniform noise over the utterance's range or by its least,
    largest or mean value; "any" draws one for each tile. `probability` of it happening at all.
    Shape: `[F, T]` → the same.
    """

    min_frames: int = 10
    max_frames: int = 100
    share: float = 0.2
    probability: float = 0.9
    fill: str = "any"

    domain: ClassVar[Literal["features"]] = "features"

    def __post_init__(self) -> None:
        chosen("augmentation taco", "fill", self.fill, (*FILLS, "any"))
        if not 1 <= self.min_frames <= self.max_frames:
            raise ComponentError(
                f"augmentation taco: tiles of {self.min_frames} to {self.max_frames} frames; give "
                "min_frames from 1 to max_frames"
            )

    def __call__(self, x: Tensor, length: int, generator: Generator) -> tuple[Tensor, int]:
        if torch.rand((), generator=generator) >= self.probability or not length:
            return x, length
        width = int(torch.randint(self.min_frames, self.max_frames + 1, (), generator=generator))
        y = x.clone()
        for start in range(0, length, width):
            if torch.rand((), generator=generator) < self.share:
                tile = slice(start, min(start + width, length))
                y[:, tile] = self._filling(x[:, :length], y[:, tile], generator)
        return y, length

    def _filling(self, x: Tensor, tile: Tensor, generator: Generator) -> Tensor:
        fill = self.fill
        if fill == "any":
            fill = FILLS[int(torch.randint(len(FILLS), (), generator=generator))]
        if fill == "noise":
            noise = torch.rand(tile.shape, generator=generator).to(x)
            return x.min() + (x.max() - x.min()) * noise
        value = {"min": x.min(), "max": x.max(), "mean": x.mean()}[fill]
        return value.expand_as(tile)
