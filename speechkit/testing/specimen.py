"""Builds components like the core does, so that one check works for every kind of layer."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from speechkit.component import Component
from speechkit.nn import (
    Add,
    BatchNorm,
    BodyMaker,
    Chunk,
    DepthwiseConv,
    FrameWise,
    Pointwise,
    StreamLayer,
    as_layer,
)
from speechkit.plugins import Entry, offered, registry

CHANNELS, LABELS, FRAMES, SAMPLE_RATE = 8, 5, 25, 16000


@dataclass(frozen=True)
class Specimen:
    """A layer that reads `c_in` channels and returns `c_out`, where that is fixed.

    A frame of a check is `unit` frames of its input (samples for a front end). `stride` and
    `lookahead`, in input frames, are the requested ones; `what` describes how it was built.
    """

    layer: StreamLayer
    c_in: int
    c_out: int | None = None
    unit: int = 1
    stride: int | None = None
    lookahead: int | None = None
    what: str = ""

    @property
    def frames(self) -> int:
        """A sufficient number of input frames for checks."""
        return FRAMES * self.unit

    def input(
        self,
        batch: int = 2,
        dtype: torch.dtype = torch.float64,
        seed: int = 0,
        frames: int = FRAMES,
    ) -> Tensor:
        """Normal frames `[batch, c_in, frames * unit]`, channels-last."""
        chance = torch.Generator().manual_seed(seed)
        shape = batch, frames * self.unit, self.c_in
        return torch.randn(shape, generator=chance, dtype=torch.float64).to(dtype).transpose(1, 2)

    def train(self) -> "Specimen":
        """Sets training mode, except for norms added by the kit, which use batch statistics."""
        self.layer.train()
        for module in self.layer.modules():
            if type(module) is KitNorm:
                module.eval()
        return self

    @property
    def made(self) -> nn.Module:
        """The plugin's own module: the layer, or the module wrapped in it."""
        module = self.layer.module if type(self.layer) is FrameWise else self.layer
        return module.merge if isinstance(module, Halves) else module

    def __str__(self) -> str:
        return f"{type(self.made).__name__}{f' ({self.what})' if self.what else ''}"


class Halves(nn.Module):
    """A merge rule as a layer: the shortcut is the first half of the channels, the body the rest.

    Shape: `[B, 2C, T]` → `[B, C, T]`.
    """

    def __init__(self, merge: nn.Module) -> None:
        super().__init__()
        self.merge = merge

    def forward(self, x: Tensor) -> Tensor:
        half = x.shape[1] // 2
        y: Tensor = self.merge(x[:, :half], x[:, half:])
        return y


class KitNorm(BatchNorm):
    """The norm in the parts that the kit gives to a block, a stack or a stem."""


def specimens(entry: Entry, seed: int = 0, channels: int = CHANNELS) -> list[Specimen]:
    """The component with its example's parameters, freshly made, once for each shape of its kind.

    The same seed gives the same weights; torch's global generator is not changed.
    """
    more: dict[str, dict[str, Any]] = {
        "head": {"names": tuple("abcdefgh"[:LABELS])},
        "stack": {"channels": channels},
    }
    given = offered(entry.factory(), **more.get(entry.kind, {}))
    make = partial(entry.make, **given, **entry.component.example)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return list(_BUILD[entry.kind](make, channels, entry.component))


def used(
    entry: Entry, dtype: torch.dtype = torch.float64, seed: int = 0, channels: int = CHANNELS
) -> list[Specimen]:
    """The specimens in evaluation after some training, so that no weight has its initial value."""
    made = specimens(entry, seed, channels)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed + 100)
        for specimen in made:
            layer = specimen.layer.to(dtype).train()
            for batch in range(3):
                layer(Chunk.of(0.5 + 2 * specimen.input(4, dtype, seed=batch)))
            for parameter in layer.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
            layer.eval()
    return made


_Make = Callable[..., Any]


def _activation(make: _Make, channels: int, component: Component) -> Iterator[Specimen]:
    yield Specimen(as_layer(make(channels), channels), channels * component.in_factor, channels)


def _norm(make: _Make, channels: int, component: Component) -> Iterator[Specimen]:
    yield Specimen(as_layer(make(channels)), channels, channels)


def _channel(make: _Make, channels: int, component: Component) -> Iterator[Specimen]:
    for c_out in (channels, channels - 2):
        layer = as_layer(make(channels, c_out), c_out)
        yield Specimen(layer, channels, c_out, what=f"{channels} to {c_out}")


def _mixer(make: _Make, channels: int, component: Component) -> Iterator[Specimen]:
    for shape in ((5, 1, 1, "same"), (3, 2, 1, 1), (3, 1, 2, 0)):
        kernel, stride, dilation, lookahead = shape
        yield Specimen(
            make(channels, *shape),
            channels,
            channels,
            stride=stride,
            lookahead=dilation * (kernel - 1) // 2 if isinstance(lookahead, str) else lookahead,
            what="kernel {}, stride {}, dilation {}, lookahead {}".format(*shape),
        )


def _residual(make: _Make, channels: int, component: Component) -> Iterator[Specimen]:
    for index in (0, 3):
        layer = FrameWise(Halves(make(channels, index, 4)), channels)
        yield Specimen(layer, 2 * channels, channels, what=f"block {index} of 4")


def _block(make: _Make, channels: int, component: Component) -> Iterator[Specimen]:
    for index, c_in in enumerate((channels, channels - 2)):
        layer = make(c_in, channels, _body_maker(), index, 2)
        yield Specimen(layer, c_in, channels, what=f"{c_in} to {channels} channels")


def _stack(make: _Make, channels: int, component: Component) -> Iterator[Specimen]:
    block, body = component.needs.get("block", "plain"), _body_maker(repeat=1)
    blocks = [
        registry().build("block", block, channels, channels, body, index, 3) for index in range(3)
    ]
    yield Specimen(make(blocks), channels, channels)


def _stem(make: _Make, channels: int, component: Component) -> Iterator[Specimen]:
    c_in = channels - 2
    for stride in (1, 2):
        layer = make(c_in, channels, _body_maker(stride=stride, repeat=1, residual=False))
        yield Specimen(layer, c_in, channels, stride=stride, what=f"stride {stride}")


def _head(make: _Make, channels: int, component: Component) -> Iterator[Specimen]:
    yield Specimen(make(channels, LABELS), channels)


def _pool(make: _Make, channels: int, component: Component) -> Iterator[Specimen]:
    yield Specimen(make(channels), channels, channels)


def _normalizer(make: _Make, channels: int, component: Component) -> Iterator[Specimen]:
    yield Specimen(make(channels), channels, channels)


def _frontend(make: _Make, channels: int, component: Component) -> Iterator[Specimen]:
    yield Specimen(make(SAMPLE_RATE), 1, unit=SAMPLE_RATE // 100)


_BUILD: dict[str, Callable[[_Make, int, Component], Iterator[Specimen]]] = {
    "activation": _activation,
    "norm": _norm,
    "channel": _channel,
    "mixer": _mixer,
    "residual": _residual,
    "block": _block,
    "stack": _stack,
    "stem": _stem,
    "head": _head,
    "pool": _pool,
    "frontend": _frontend,
    "normalizer": _normalizer,
}
LAYERS = frozenset(_BUILD)
"""The kinds that make layers."""


def _body_maker(stride: int = 1, repeat: int = 2, residual: bool = True) -> BodyMaker:
    """Small plain parts; their norms have a bias, so that a frame of zeros becomes nonzero."""
    return BodyMaker(
        kernel=3,
        stride=stride,
        repeat=repeat,
        residual=residual,
        lookahead=1,
        mixer=DepthwiseConv,
        channel=Pointwise,
        norm=KitNorm,
        activation=lambda channels: FrameWise(nn.ReLU()),
        merge=lambda channels, index, depth: Add(),
    )
