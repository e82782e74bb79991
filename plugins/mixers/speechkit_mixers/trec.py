"""The block of TRecViT: a recurrence over time, attention over bands, a layer over channels."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.errors import ComponentError
from speechkit.nn import (
    Add,
    BodyMaker,
    Chunk,
    DepthwiseConv,
    FrameWise,
    Pointwise,
    Residual,
    Serial,
    State,
    StreamLayer,
)
from speechkit_mixers.rglru import RGLRU, recurrence

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value


class Banded(StreamLayer):
    """A layer applied to each of `bands` groups of the channels, with the same weights.

    Shape: `[B, F · C, T]` → `[B, F · C', T]` for a layer of `[B, C, T]` → `[B, C', T]` without a
    delay; state as of the layer, `[B, F, ...]`.
    """

    def __init__(self, layer: StreamLayer, bands: int) -> None:
        super().__init__()
        self.layer, self.bands = layer, bands
        self.left, self.right = layer.left, layer.right

    def channels_out(self, c_in: int) -> int:
        return self.bands * self.layer.channels_out(c_in // self.bands)

    def forward(self, c: Chunk) -> Chunk:
        return self._joined(self.layer(self._split(c)), c)

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        each = c_in // self.bands
        state = self.layer.init_state(batch * self.bands, each, dtype, device)
        return _mapped(state, lambda t: t.unflatten(0, (batch, self.bands)))

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        y, state = self.layer.step(self._split(c), _mapped(state, lambda t: t.flatten(0, 1)))
        return self._joined(y, c), _mapped(state, lambda t: t.unflatten(0, (-1, self.bands)))

    def lower(self, program: Lowering, x: Value) -> Value:
        return program.add(tiled(self.layer, self.bands), x)

    def _split(self, c: Chunk) -> Chunk:
        x = c.x.transpose(1, 2).unflatten(2, (self.bands, -1)).transpose(1, 2).flatten(0, 1)
        valid = c.valid[:, None].expand(-1, self.bands, -1).flatten(0, 1)
        return Chunk(x.contiguous().transpose(1, 2), valid)

    def _joined(self, y: Chunk, c: Chunk) -> Chunk:
        bands = y.x.transpose(1, 2).unflatten(0, (-1, self.bands))
        return Chunk(bands.transpose(1, 2).flatten(2).transpose(1, 2), c.valid)


class BandAttention(StreamLayer):
    """y_f = W_o Σ_g softmax_g(q_f · k_g / √d) v_g in each frame, for each of `heads` heads.

    f and g are `bands` groups of C channels, with the same maps to q, k and v `[C]`, and d = C /
    heads. Shape: `[B, F · C, T]` → the same.
    """

    def __init__(self, channels: int, bands: int, heads: int) -> None:
        super().__init__()
        self.bands, self.heads = bands, heads
        self.query, self.key, self.value, self.output = (
            Pointwise(channels, channels, bias=True) for _ in range(4)
        )

    def forward(self, c: Chunk) -> Chunk:
        bands = c.x.transpose(1, 2).unflatten(2, (self.bands, -1))
        # [B, T, H, F, d]
        q, k, v = (
            F.linear(bands, m.weight, m.bias).unflatten(3, (self.heads, -1)).transpose(2, 3)
            for m in (self.query, self.key, self.value)
        )
        shares = (q @ k.transpose(3, 4) / q.shape[4] ** 0.5).softmax(4)
        y = F.linear((shares @ v).transpose(2, 3).flatten(3), self.output.weight, self.output.bias)
        return Chunk(y.flatten(2).transpose(1, 2), c.valid)

    def lower(self, program: Lowering, x: Value) -> Value:
        q, k, v = (
            program.add(tiled(layer, self.bands), x) for layer in (self.query, self.key, self.value)
        )
        each = x.channels // self.bands
        size = each // self.heads
        # sums the products of a head into all its channels
        sums = torch.block_diag(*[torch.full((size, size), size**-0.5)] * (x.channels // size))
        scores, values = [], []
        for turn in range(self.bands):
            products = program.expression("a * b", {}, q, _turned(program, k, turn * each))
            scores.append(program.matrix(products, sums))
            values.append(_turned(program, v, turn * each))
        return program.add(tiled(self.output, self.bands), program.attended(scores, values))

    def macs(self, frames: int) -> int:
        # four maps in each band, and the scores and the sums of each pair of bands
        weights = 4 * self.output.weight.numel() * self.bands
        return (weights + 2 * len(self.output.weight) * self.bands**2) * frames


def _turned(program: Lowering, x: Value, by: int) -> Value:
    """The channels, rotated so that channel `by` is the first."""
    if not by:
        return x
    return program.join(program.part(x, by, x.channels - by), program.part(x, 0, by))


def _mapped(state: State, function: Callable[[Tensor], Tensor]) -> State:
    if isinstance(state, Tensor):
        return function(state)
    return tuple(_mapped(part, function) for part in state)


def tiled(layer: StreamLayer, bands: int) -> StreamLayer:
    """The layer `[B, F · C, T]` → `[B, F · C', T]` that is `layer` in each of F bands."""
    layer = copy.deepcopy(layer)
    for part in layer.modules():
        if isinstance(part, Pointwise):
            part.weight = nn.Parameter(torch.block_diag(*[part.weight] * bands))
            part.bias = None if part.bias is None else nn.Parameter(part.bias.repeat(bands))
        elif isinstance(part, DepthwiseConv):
            part.weight = nn.Parameter(part.weight.repeat(bands, 1, 1))
        elif isinstance(part, RGLRU):
            part.gates = nn.Parameter(part.gates.repeat(1, bands, 1, 1))
            part.gate_bias = nn.Parameter(part.gate_bias.repeat(1, bands, 1))
            part.decay = nn.Parameter(part.decay.repeat(bands))
    return layer


def trec(
    c_in: int,
    c_out: int,
    make_body: BodyMaker,
    index: int = 0,
    depth: int = 1,
    bands: int = 4,
    heads: int = 4,
    mlp: int = 4,
    expand: int = 1,
    conv_width: int = 4,
    min_radius: float = 0.9,
    max_radius: float = 0.999,
) -> StreamLayer:
    """x' = rglru(x) in each band, x'' = x' + attention over bands, y = x'' + MLP in each band.

    A band is one of `bands` groups of the channels; all have the same weights. With one band there
    is no attention. The recurrence and the attention have `heads`, the MLP has `mlp` times a band's
    channels inside, and each part a norm before it, over all channels of a frame. It is causal and
    replaces the body, so `kernel` and `lookahead` have no effect. Pătrăucean et al., TRecViT,
    arXiv:2412.14294, whose bands are patches of an image.
    """
    make_body.narrow_only("trec")
    if bands < 1 or heads < 1 or mlp < 1 or c_in % bands or c_out % (bands * heads):
        raise ComponentError(
            f"block trec: bands={bands}, heads={heads}, mlp={mlp} of {c_in} to {c_out} channels; "
            "give bands that divide both, heads that divide a band's, and an mlp from 1 up"
        )
    each = c_out // bands
    layer = recurrence(
        c_in // bands, each, depth, expand, heads, conv_width, min_radius, max_radius
    )
    body = Serial(norm=make_body.norm(c_in), recurrence=Banded(layer, bands))
    merge = make_body.merge(c_out, index, depth)
    parts = {"time": Residual(body, make_body.matched(c_in, c_out), merge)}
    if bands > 1:
        attention = BandAttention(each, bands, heads)
        parts["bands"] = _added(make_body, c_out, attention)
    inside = Serial(
        up=Pointwise(each, mlp * each, bias=True),
        activation=FrameWise(nn.GELU()),
        down=Pointwise(mlp * each, each, bias=True),
    )
    return Serial(**parts, channels=_added(make_body, c_out, Banded(inside, bands)))


def _added(make_body: BodyMaker, channels: int, layer: StreamLayer) -> Residual:
    return Residual(Serial(norm=make_body.norm(channels), layer=layer), StreamLayer(), Add())
