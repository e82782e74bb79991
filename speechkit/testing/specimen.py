"""Components built as the core builds them, so that one check serves every kind of layer."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

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
    plain_block,
)
from speechkit.plugins import Entry

CHANNELS, LABELS, FRAMES, SAMPLE_RATE = 8, 5, 25, 16000


@dataclass(frozen=True)
class Specimen:
    """A layer that reads `c_in` channels and, if it is said, gives `c_out`.

    `frames` of input are enough to see it work; `what` says how it was built.
    """

    layer: StreamLayer
    c_in: int
    c_out: int | None = None
    frames: int = FRAMES
    what: str = ""

    def input(self, batch: int = 2, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
        """Normal frames `[batch, c_in, frames]`, channels-last."""
        chance = torch.Generator().manual_seed(seed)
        x = torch.randn(batch, self.frames, self.c_in, generator=chance, dtype=torch.float64)
        return x.to(dtype).transpose(1, 2)

    @property
    def made(self) -> nn.Module:
        """What the plugin made: the layer, or the module that is wrapped in it."""
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


def specimens(entry: Entry, seed: int = 0) -> list[Specimen]:
    """The component with its example's parameters, freshly made, once for each shape of its kind.

    The same seed gives the same weights; torch's own generator is left as it was.
    """
    make = partial(entry.factory(), **entry.component.example)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return list(_BUILD[entry.kind](make, entry.component.in_factor))


def used(entry: Entry, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Specimen]:
    """The same in evaluation after some training: nothing has its initial value any more."""
    made = specimens(entry, seed)
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


def _activation(make: _Make, in_factor: int) -> Iterator[Specimen]:
    yield Specimen(as_layer(make(CHANNELS), CHANNELS), CHANNELS * in_factor, CHANNELS)


def _norm(make: _Make, in_factor: int) -> Iterator[Specimen]:
    yield Specimen(as_layer(make(CHANNELS)), CHANNELS, CHANNELS)


def _channel(make: _Make, in_factor: int) -> Iterator[Specimen]:
    for c_in, c_out in ((CHANNELS, CHANNELS), (CHANNELS, 6)):
        yield Specimen(as_layer(make(c_in, c_out), c_out), c_in, c_out, what=f"{c_in} to {c_out}")


def _mixer(make: _Make, in_factor: int) -> Iterator[Specimen]:
    for shape in ((5, 1, 1, "same"), (3, 2, 1, 1), (3, 1, 2, 0)):
        what = "kernel {}, stride {}, dilation {}, lookahead {}".format(*shape)
        yield Specimen(as_layer(make(CHANNELS, *shape)), CHANNELS, CHANNELS, what=what)


def _residual(make: _Make, in_factor: int) -> Iterator[Specimen]:
    for index in (0, 3):
        layer = FrameWise(Halves(make(CHANNELS, index, 4)), CHANNELS)
        yield Specimen(layer, 2 * CHANNELS, CHANNELS, what=f"block {index} of 4")


def _block(make: _Make, in_factor: int) -> Iterator[Specimen]:
    for index, c_in in enumerate((CHANNELS, 6)):
        layer = make(c_in, CHANNELS, _body_maker(), index, 2)
        yield Specimen(layer, c_in, CHANNELS, what=f"{c_in} to {CHANNELS} channels")


def _stack(make: _Make, in_factor: int) -> Iterator[Specimen]:
    blocks = [plain_block(CHANNELS, CHANNELS, _body_maker(), index, 3) for index in range(3)]
    yield Specimen(make(blocks), CHANNELS, CHANNELS)


def _stem(make: _Make, in_factor: int) -> Iterator[Specimen]:
    for stride in (1, 2):
        layer = make(6, CHANNELS, _body_maker(stride=stride, repeat=1, residual=False))
        yield Specimen(layer, 6, CHANNELS, what=f"stride {stride}")


def _head(make: _Make, in_factor: int) -> Iterator[Specimen]:
    yield Specimen(make(CHANNELS, LABELS), CHANNELS)


def _pool(make: _Make, in_factor: int) -> Iterator[Specimen]:
    yield Specimen(make(CHANNELS), CHANNELS, CHANNELS)


def _frontend(make: _Make, in_factor: int) -> Iterator[Specimen]:
    yield Specimen(make(SAMPLE_RATE), 1, frames=SAMPLE_RATE // 4)


_BUILD: dict[str, Callable[[_Make, int], Iterator[Specimen]]] = {
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
}
LAYERS = frozenset(_BUILD)
"""The kinds that make layers."""


def _body_maker(stride: int = 1, repeat: int = 2, residual: bool = True) -> BodyMaker:
    """Small plain parts; their norms have a bias, so that a frame of zeros does not stay one."""
    return BodyMaker(
        kernel=3,
        stride=stride,
        repeat=repeat,
        residual=residual,
        lookahead=1,
        mixer=DepthwiseConv,
        channel=Pointwise,
        norm=BatchNorm,
        activation=lambda channels: FrameWise(nn.ReLU()),
        merge=lambda channels, index, depth: Add(),
    )
