"""A block of attention layers, which may read the values of the first, arXiv:2410.17897."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from speechkit.errors import ComponentError
from speechkit.nn import (
    Add,
    BodyMaker,
    Chunk,
    Delay,
    Pointwise,
    Residual,
    Serial,
    State,
    StreamLayer,
)
from speechkit_mixers.attention import Attention, ends

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value

VALUES = "none", "res", "learn", "shared"


class EncoderLayer(nn.Module):
    """x' = x + W_o attention(n, v) and y = x' + W_2 f(W_1 norm(x')), where n = norm(x).

    With V = W_v n and the first layer's V_1, `value` decides v: V for "none"; ½ V_1 + ½ V for
    "res"; λ_1 V_1 + λ_2 V for "learn", where λ starts at (½, ½); V_1 for "shared", without a W_v.
    """

    shares: Tensor

    def __init__(self, attention: Attention, make_body: BodyMaker, value: str, expand: int) -> None:
        super().__init__()
        channels = attention.heads.channels
        self.value, self.norm, self.attention = value, make_body.norm(channels), attention
        if value == "shared":
            attention.value = StreamLayer()
        if value == "learn":
            self.shares = nn.Parameter(torch.full((2,), 0.5))
            self.undecayed = ("shares",)
        if value == "res":
            self.register_buffer("shares", torch.full((2,), 0.5), persistent=False)
        self.out = Pointwise(channels, channels)
        inner = Serial(
            norm=make_body.norm(channels),
            wide=Pointwise(channels, expand * channels, bias=True),
            after=make_body.after(expand * channels),
            narrow=Pointwise(expand * channels, channels, bias=True),
        )
        self.feed = Residual(inner, StreamLayer(), Add())
        # in a stream the input waits for the frames that the attention reads ahead
        self.wait = Delay(attention.delay)

    def forward(self, c: Chunk, first: Tensor | None) -> tuple[Chunk, Tensor]:
        """The output, and the values v `[B, C, T]`; `first` is V_1, or None in the first layer."""
        maps, values = self.maps(self.norm(c), first)
        heads = self.attention.gate(self.attention.heads(maps))
        return self.feed(self.added(c, heads)), values

    def init_state(self, batch: int, c_in: int, *more: Any) -> State:
        """The state before the first frame."""
        parts = self.norm, self.attention, self.wait, self.feed
        return tuple(part.init_state(batch, c_in, *more) for part in parts)

    def step(
        self, c: Chunk, first: Tensor | None, state: State
    ) -> tuple[tuple[Chunk, Tensor], State]:
        """The output for the next chunk and the values of its frames, and the next state."""
        normal, s_norm = self.norm.step(c, state[0])
        maps, values = self.maps(normal, first)
        heads, s_heads = self.attention.heads.step(maps, state[1])
        shortcut, s_wait = self.wait.step(c, state[2])
        y, s_feed = self.feed.step(self.added(shortcut, self.attention.gate(heads)), state[3])
        return (y, values), (s_norm, s_heads, s_wait, s_feed)

    def lower(self, program: Lowering, x: Value, first: Value | None) -> tuple[Value, Value]:
        """The same as instructions: the output, and the values."""
        normal = program.add(self.norm, x)
        values = program.add(self.attention.value, normal)
        if first is not None and self.value == "shared":
            values = first
        elif first is not None and self.value != "none":
            shares = dict(zip(("p", "q"), self.shares.tolist(), strict=True))
            values = program.expression("p * a + q * b", shares, first, values)
        heads = self.attention.lower_with(program, normal, values)
        sum_ = program.added(program.add(self.out, heads), program.add(self.wait, x))
        return program.add(self.feed, sum_), values

    def maps(self, normal: Chunk, first: Tensor | None) -> tuple[Chunk, Tensor]:
        """Queries, keys and values of normalised frames, and the values alone."""
        c = Chunk(normal.masked, normal.valid)
        values: Tensor = self.attention.value(c).x
        if first is not None and self.value == "shared":
            values = first
        elif first is not None and self.value != "none":
            values = self.shares[0] * first + self.shares[1] * values
        return self.attention.maps_with(c, values), values

    def added(self, shortcut: Chunk, heads: Chunk) -> Chunk:
        """The input and the map of the heads."""
        return Chunk(shortcut.x + self.out(heads).x, heads.valid)


class Encoder(StreamLayer):
    """Some `EncoderLayer`s, then a norm. Shape: `[B, C, T]` → the same.

    In a stream the first layer's values wait for each layer as its input does. Zhou et al., Value
    residual learning, arXiv:2410.17897.
    """

    def __init__(self, layers: list[EncoderLayer], norm: StreamLayer) -> None:
        super().__init__()
        self.layers, self.norm = nn.ModuleList(layers), norm
        self.carries = any(layer.value != "none" for layer in layers)
        self.delay = sum(layer.wait.delay for layer in layers)
        self.left = sum(layer.attention.left for layer in layers)
        self.right = sum(layer.attention.right for layer in layers)

    def __iter__(self) -> Iterator[EncoderLayer]:
        return iter(self.layers)  # type: ignore[arg-type]

    def forward(self, c: Chunk) -> Chunk:
        first = None
        for layer in self:
            c, values = layer(c, first)
            if self.carries and first is None:
                first = values
        y: Chunk = self.norm(c)
        return y

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        given = batch, c_in, dtype, device
        layers = tuple(
            (layer.init_state(*given), layer.wait.init_state(*given) if self.carries else ())
            for layer in self
        )
        return layers, self.norm.init_state(*given)

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        first, states = None, []
        for layer, (before, waiting) in zip(self, state[0], strict=True):
            (y, values), after = layer.step(c, first, before)
            if self.carries:
                given = Chunk(values if first is None else first, c.valid)
                (first, _), waiting = layer.wait.step(given, waiting)
            c = y
            states.append((after, waiting))
        c, s_norm = self.norm.step(c, state[1])
        return c, (tuple(states), s_norm)

    def lower(self, program: Lowering, x: Value) -> Value:
        first: Value | None = None
        for layer in self:
            x, values = layer.lower(program, x, first)
            if self.carries:
                first = program.add(layer.wait, values if first is None else first)
        return program.add(self.norm, x)


def encoder(
    c_in: int,
    c_out: int,
    make_body: BodyMaker,
    index: int = 0,
    depth: int = 1,
    layers: int = 2,
    value: str = "none",
    weight: str = "softmax",
    window: int = 0,
    heads: int = 4,
    expand: int = 4,
) -> StreamLayer:
    """`Encoder` in place of the body, behind the shortcut's projection if the width changes.

    `weight`, `window` and `heads` are those of the mixer `attention`; W_1 has expand · C rows and f
    is the row's activation. `repeat` has no effect. There is no positional encoding: the window is
    limited, and convolutions before the block depend on the order of frames.
    """
    make_body.narrow_only("encoder")
    if value not in VALUES or layers < 1 or (layers == 1 and value != "none") or expand < 1:
        raise ComponentError(
            f"block encoder: layers={layers}, value={value!r}, expand={expand}; give at least 1 "
            f"layer, 2 with a value other than none, value {' or '.join(VALUES)}, expand from 1 up"
        )
    if make_body.stride != 1:
        raise ComponentError("block encoder has no stride: set the stride of another row")
    reads = ends(window, make_body.kernel, make_body.dilation, make_body.lookahead)
    parts = [
        EncoderLayer(
            Attention(c_out, *reads, weight=weight, heads=heads),
            make_body,
            value if number else "none",
            expand,
        )
        for number in range(layers)
    ]
    inner = Encoder(parts, make_body.norm(c_out))
    return Serial(into=make_body.matched(c_in, c_out), layers=inner)
