"""Block-recurrent transformers: attention over a window, and states that read whole blocks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.errors import ComponentError
from speechkit.nn import BodyMaker, FrameWise, Pointwise, Residual, Serial, StreamLayer
from speechkit_mixers.blockwise import Blockwise
from speechkit_mixers.heads import attend, split_heads
from speechkit_mixers.norms import FrameNorm, RMSNorm, lower_unit, unit

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value

GATES = "bias", "full", "lstm"
CONFIGS = "skip", "dual", "single"
BUCKETS, FARTHEST = 32, 128
"""Of the relative bias: its number of values, and the distance from which all share the last."""


class Gate(nn.Module):
    """R ← f ⊙ R + i ⊙ z, where z was made from y by its last map.

    `bias`: f = σ(b), i = 1 − f. `full`: f = σ(W y + b + 1), i = 1 − f. `lstm`: f = σ(W_f y + b_f +
    1), i = σ(W_i y + b_i − 1). b begins as N(0, 0.1²), W as N(0, 0.1 / Y).
    Shape: R and z `[B, S, D]`, y `[B, S, Y]`.
    """

    undecayed = ("bias",)

    def __init__(self, kind: str, inner: int, channels: int) -> None:
        super().__init__()
        self.kind = kind
        count = 2 if kind == "lstm" else 1
        self.bias = nn.Parameter(torch.randn(count, channels) * 0.1)
        if kind != "bias":
            self.kernel = nn.Parameter(torch.randn(count, channels, inner) * (0.1 / inner) ** 0.5)

    def forward(self, state: Tensor, z: Tensor, y: Tensor) -> Tensor:
        if self.kind == "bias":
            forget = self.bias[0].sigmoid()
        else:
            forget = (F.linear(y, self.kernel[0], self.bias[0]) + 1).sigmoid()
        if self.kind == "lstm":
            return forget * state + (F.linear(y, self.kernel[1], self.bias[1]) - 1).sigmoid() * z
        return forget * state + (1 - forget) * z

    def lower(self, program: Lowering, state: Value, z: Value, y: Value) -> Value:
        """The same in a native program."""
        if self.kind == "bias":
            forget = {"f": self.bias[0].detach().sigmoid()}
            return program.expression("f * a + (1 - f) * b", forget, state, z)
        share = program.matrix(y, self.kernel[0], self.bias[0] + 1)
        if self.kind == "full":
            kept = program.expression("a - b", {}, state, z)
            return program.added(z, program.expression("a * sigmoid(b)", {}, kept, share))
        new = program.matrix(y, self.kernel[1], self.bias[1] - 1)
        kept, new = (
            program.expression("a * sigmoid(b)", {}, *pair) for pair in ((state, share), (z, new))
        )
        return program.added(kept, new)


class States(nn.Module):
    """The states R `[S, C]` of a row: what frames read of them, and how they read a block.

    [k', v'] = U (norm(R) + E) and [q', p'] = V (norm(R) + E). y = [softmax(|a| q̂' · k̂') v',
    softmax(|b| p̂' · k̂) v] over the states and over the frames of the block, x̂ = x / √(|x|² + 1e-6)
    in each head. `skip`: a `Gate` moves R towards W y. `dual`: then a second one towards an FFN of
    norm(R). `single`: there is only one, towards the tanh of an FFN of y. At first E is N(0, 1),
    and the learned R before the first block N(0, 0.1²).
    """

    undecayed = ("scales", "embedding", "initial")

    def __init__(self, channels: int, heads: int, count: int, gate: str, config: str) -> None:
        super().__init__()
        self.heads, self.config = heads, config
        self.initial = nn.Parameter(torch.randn(count, channels) * 0.1)
        self.embedding = nn.Parameter(torch.randn(count, channels))
        self.scales = nn.Parameter(torch.ones(2, heads, 1, 1))
        both, wide = 2 * channels, 4 * channels
        self.norm = RMSNorm(channels)
        self.offered = nn.Linear(channels, both, bias=False)
        self.asked = nn.Linear(channels, both, bias=False)
        self.up_norm = RMSNorm(channels) if config == "dual" else nn.Identity()
        if config != "single":
            self.out = nn.Linear(both, channels, bias=False)
            self.out_gate = Gate(gate, both, channels)
        if config != "skip":
            self.up = nn.Linear(channels if config == "dual" else both, wide, bias=False)
            self.down = nn.Linear(wide, channels, bias=False)
            self.down_gate = Gate(gate, wide, channels)

    def read(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """k̂' and v' of states `[B, S, C]`, each `[B, H, S, C / H]`."""
        x = self.offered(self.norm(states) + self.embedding)
        k, v = (split_heads(part, self.heads) for part in x.chunk(2, dim=2))
        return unit(k), v

    def forward(self, states: Tensor, k: Tensor, v: Tensor, valid: Tensor) -> Tensor:
        """The states `[B, S, C]` after a block: k̂ and v `[B, H, W, C / H]`, valid `[B, W]`."""
        given = states.to(k.dtype)
        x = self.asked(self.norm(given) + self.embedding)
        q, p = (unit(split_heads(part, self.heads)) for part in x.chunk(2, dim=2))
        scale, frame_scale = self.scales.abs()
        own = attend(scale * q, *self.read(given), valid.new_ones(1))
        y = torch.cat([own, attend(frame_scale * p, k, v, valid[:, None, None])], dim=2)
        if self.config != "single":
            states = self.out_gate(states, self.out(y), y)
            y = self.up_norm(states.to(k.dtype))
        if self.config == "skip":
            return states
        y = self.up(y).relu()
        z = self.down(y)
        after: Tensor = self.down_gate(states, z.tanh() if self.config == "single" else z, y)
        return after

    def remembered(self) -> Tensor:
        """The learned states, and k̂' and v' of them, `[S, 3 C]`."""
        offered = (part[0].transpose(0, 1).flatten(1) for part in self.read(self.initial[None]))
        return torch.cat([self.initial, *offered], dim=1)

    def lower_read(self, program: Lowering, states: Value) -> Value:
        """`read` in a native program: k̂' and v', `[2 C]`."""
        x = self._lower_asking(program, states, self.offered)
        v = program.part(x, states.channels, states.channels)
        return program.join(lower_unit(program, program.part(x, 0, v.channels), self.heads), v)

    def lower(self, program: Lowering, memory: Value, block: Value) -> Value:
        """The next `remembered` of a native program, from this one and k̂ and v of a block."""
        channels = block.channels // 2
        states, offered = (
            program.part(memory, 0, channels),
            program.part(memory, channels, 2 * channels),
        )
        x = self._lower_asking(program, states, self.asked)
        asked = (program.part(x, start, channels) for start in (0, channels))
        y = program.join(
            *(
                program.attend(lower_unit(program, q, self.heads, scale.abs()), keys, self.heads)
                for q, scale, keys in zip(asked, self.scales, (offered, block), strict=True)
            )
        )
        if self.config != "single":
            z = program.matrix(y, self.out.weight)
            states = self.out_gate.lower(program, states, z, y)
            y = program.add(self.up_norm, states) if self.config == "dual" else y
        if self.config != "skip":
            y = program.expression("relu(x)", {}, program.matrix(y, self.up.weight))
            z = program.matrix(y, self.down.weight)
            z = program.expression("tanh(x)", {}, z) if self.config == "single" else z
            states = self.down_gate.lower(program, states, z, y)
        return program.join(states, self.lower_read(program, states))

    def _lower_asking(self, program: Lowering, states: Value, maps: nn.Linear) -> Value:
        """maps(norm(R) + E)."""
        x = program.places(program.add(self.norm, states), self.embedding)
        return program.matrix(x, maps.weight)

    def macs(self, frames: int) -> int:
        """Its multiply-adds for a block of `frames`."""
        count, channels = self.initial.shape
        named = [x for n, x in self.named_parameters() if n.endswith(("weight", "kernel"))]
        weights = sum(x.numel() for x in named if x.ndim > 1)
        # frames read the keys and values of the states too
        weights += self.offered.weight.numel()
        return count * (weights + 2 * (count + frames) * channels)


class BlockRecurrence(Blockwise):
    """o_t = [Σ_j A_tj v_j, Σ_s B_ts v'_s]: attention to the last frames and to the states.

    The input has keys, values, queries and second queries one after another along the channels,
    [k, v, q, p]. A is the softmax over the `window` last valid frames j of |a| q̂_t · k̂_j + b_{t−j},
    with T5's relative bias, 0 at first. B is the softmax over the `States` before the block of
    frame t of |c| p̂_t · k̂'_s. a, b and c are those of a head. Without states there are no second
    queries, and o_t is its first part. Shape: `[B, 4 C, T]` → `[B, 2 C, T]`, without states `[B, 3
    C, T]` → `[B, C, T]`; state as `Blockwise`. Hutchins et al., arXiv:2203.07852.
    """

    undecayed = ("scales", "distances")

    def __init__(
        self, channels: int, heads: int, window: int, states: int, gate: str, config: str
    ) -> None:
        super().__init__(window, 2 * channels)
        for name, value, known in (("gate", gate, GATES), ("config", config, CONFIGS)):
            if value not in known:
                raise ComponentError(
                    f"block block_recurrent: {name}={value!r}; give one of {', '.join(known)}"
                )
        if heads < 1 or channels % heads or states < 0:
            raise ComponentError(
                f"block block_recurrent: heads={heads} of {channels} channels, states={states}; "
                "give heads that divide the channels, and a number of states from 0 up"
            )
        self.channels, self.heads = channels, heads
        self.scales = nn.Parameter(torch.ones(2 if states else 1, heads, 1, 1))
        self.distances = nn.Parameter(torch.zeros(BUCKETS, heads))
        self.register_buffer("buckets", _buckets(window), persistent=False)
        self.states = States(channels, heads, states, gate, config) if states else None

    def begin(self) -> Tensor:
        if self.states is None:
            return self.distances.new_zeros(0, self.channels)
        return self.states.initial

    def channels_out(self, c_in: int) -> int:
        return self.channels * len(self.scales)

    def enter(self, x: Tensor) -> Tensor:
        # k, v and the queries of each head
        x = x.unflatten(2, (x.shape[2] // self.channels, self.heads, -1))
        parts = unit(x[:, :, :1]), x[:, :, 1:2], unit(x[:, :, 2:])
        return torch.cat(parts, dim=2).flatten(2)

    def update(self, block: Tensor, valid: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        if self.states is None:
            return block, memory
        k, v = (split_heads(part, self.heads) for part in block.chunk(2, dim=2))
        return block, self.states(memory, k, v, valid)

    def read(
        self, new: Tensor, frames: Tensor, valid: Tensor, memory: list[Tensor], own: Tensor
    ) -> Tensor:
        queries = new[:, :, self.held :].split(self.channels, dim=2)
        q, *other = (
            scale.abs() * split_heads(x, self.heads)
            for scale, x in zip(self.scales, queries, strict=True)
        )
        k, v = (split_heads(part, self.heads) for part in frames.chunk(2, dim=2))
        place = torch.arange(k.shape[2], device=k.device)
        distance = place[self.size - 1 :, None] - place
        inside = (distance >= 0) & (distance < self.size)
        bias = self.distances[self.get_buffer("buckets")].t()
        bias = bias[:, distance.clamp(0, self.size - 1)]
        y = attend(q, k, v, (valid[:, None] & inside)[:, None], bias)
        if self.states is None:
            return y
        offers = [self.states.read(states.to(new.dtype)) for states in memory]
        k, v = (torch.cat(parts, dim=2) for parts in zip(*offers, strict=True))
        which = torch.arange(len(memory), device=k.device).repeat_interleave(memory[0].shape[1])
        return torch.cat([y, attend(other[0], k, v, (own[:, :, None] == which)[:, None])], dim=2)

    def lower(self, program: Lowering, x: Value) -> Value:
        k, v, *asked = (
            program.part(x, start, self.channels) for start in range(0, x.channels, self.channels)
        )
        others = program.join(lower_unit(program, k, self.heads), v)
        # the instruction divides by the root of a head's channels
        root = (self.channels // self.heads) ** 0.5
        queries = [
            lower_unit(program, q, self.heads, scale.abs() * factor)
            for q, scale, factor in zip(asked, self.scales, (root, 1), strict=False)
        ]
        y = program.emit(
            "attention",
            others,
            channels=self.channels,
            other=queries[0],
            size=self.heads,
            keep=self.size - 1,
            taps=self.size,
            left=self.size - 1,
            # the oldest frame first
            bias=self.distances.detach()[self.get_buffer("buckets")].flip(0).t(),
            numbers=[1, 0, *[1] * self.heads],
        )
        states = self.states
        if states is None:
            return y

        def update(body: Lowering, block: Value, memory: Value) -> tuple[Value, Value]:
            return block, states.lower(body, memory, block)

        read = program.blocks(
            others, self.size, states.remembered(), update, queries[1], self.heads
        )
        return program.join(y, read)

    def macs(self, frames: int) -> int:
        attention = 2 * frames * self.channels * self.size
        if self.states is None:
            return attention
        blocks, count = math.ceil(frames / self.size), len(self.states.initial)
        return attention + 2 * frames * self.channels * count + blocks * self.states.macs(self.size)


def block_recurrent(
    c_in: int,
    c_out: int,
    make_body: BodyMaker,
    index: int = 0,
    depth: int = 1,
    heads: int = 4,
    window: int = 64,
    states: int = 32,
    gate: str = "bias",
    config: str = "skip",
) -> StreamLayer:
    """y = x + W_o `BlockRecurrence`(W norm(x)), then y + W_2 ReLU(W_1 norm(y)), 4 · c_out wide.

    norm is x / RMS(x) · weight. x is the input, or its channel layer and norm if the block changes
    the number of channels; both sums are the net's merge rule. It is causal and replaces the body,
    so `kernel`, `repeat` and `lookahead` have no effect. With `states=0` it is attention to a
    window. Hutchins et al., arXiv:2203.07852.
    """
    make_body.narrow_only("block_recurrent")
    attention = BlockRecurrence(c_out, heads, window, states, gate, config)
    parts = 4 if states else 3
    mixing = Serial(
        norm=FrameWise(FrameNorm(c_out)),
        project=Pointwise(c_out, parts * c_out),
        attention=attention,
        out=Pointwise(attention.channels_out(parts * c_out), c_out),
    )
    feed_forward = Serial(
        norm=FrameWise(FrameNorm(c_out)),
        up=Pointwise(c_out, 4 * c_out),
        relu=FrameWise(nn.ReLU()),
        down=Pointwise(4 * c_out, c_out),
    )
    sums = (
        Residual(body, StreamLayer(), make_body.merge(c_out, index, depth))
        for body in (mixing, feed_forward)
    )
    return Serial(make_body.matched(c_in, c_out), *sums)


def _buckets(window: int) -> Tensor:
    """T5's bucket of each distance 0 … window − 1: half of them exact, then logarithmic."""
    distance, exact = torch.arange(window), BUCKETS // 2
    share = (distance.clamp(min=exact) / exact).log() / math.log(FARTHEST / exact)
    far = exact + (share * (BUCKETS - exact)).long()
    return torch.where(distance < exact, distance, far).clamp(max=BUCKETS - 1)
