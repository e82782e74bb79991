"""Recurrent interface networks: a few latents read a block of frames, compute and write to it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.errors import ComponentError
from speechkit.nn import BodyMaker, Serial, StreamLayer
from speechkit_mixers.blockwise import Blockwise
from speechkit_mixers.heads import attend, split_heads

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value

EPS = 1e-6
START = 0.02
"""The deviation of the learned positions at first."""


class Attention(nn.Module):
    """y = W_o softmax(q kᵀ / √d) v + b_o, q = W_q norm(x) + b_q and [k, v] = W z + b, d in a head.

    z is norm(x) where it is not given. Shape: x `[B, Q, C]`, z `[B, K, Z]` → `[B, Q, C]`.
    """

    undecayed = ("norm",)

    def __init__(self, channels: int, read: int, inner: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels, eps=EPS)
        self.asked = nn.Linear(channels, inner)
        self.offered = nn.Linear(read, 2 * inner)
        self.out = nn.Linear(inner, channels)

    def forward(self, x: Tensor, z: Tensor | None = None, valid: Tensor | None = None) -> Tensor:
        x = self.norm(x)
        q, k, v = (
            split_heads(part, self.heads)
            for part in (self.asked(x), *self.offered(x if z is None else z).chunk(2, dim=2))
        )
        allowed = x.new_ones(1, 1, dtype=torch.bool) if valid is None else valid
        y: Tensor = self.out(attend(q * q.shape[3] ** -0.5, k, v, allowed[:, None, None]))
        return y

    def lower(self, program: Lowering, x: Value, z: Value | None = None) -> Value:
        """x + Attention(x, z) in a native program."""
        normal = _lower_norm(program, x, self.norm)
        q = _lower_linear(program, normal, self.asked)
        q = program.scaled(q, (q.channels // self.heads) ** -0.5)
        others = _lower_linear(program, normal if z is None else z, self.offered)
        y = _lower_linear(program, program.attend(q, others, self.heads), self.out)
        # the rows of x stay valid or not
        return program.added(x, y)

    def macs(self, queries: int, keys: int) -> int:
        """Its multiply-adds for these numbers of queries and keys."""
        own, given = self.asked.weight.numel(), self.offered.weight.numel()
        return 2 * queries * own + keys * given + 2 * queries * keys * len(self.asked.weight)


class FeedForward(nn.Module):
    """y = W_2 GELU(W_1 norm(x) + b_1) + b_2. Shape: `[B, N, C]` → the same."""

    undecayed = ("norm",)

    def __init__(self, channels: int, expand: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=EPS)
        self.up = nn.Linear(channels, expand * channels)
        self.down = nn.Linear(expand * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(F.gelu(self.up(self.norm(x))))
        return y

    def lower(self, program: Lowering, x: Value) -> Value:
        """x + FFN(x) in a native program."""
        y = _lower_linear(program, _lower_norm(program, x, self.norm), self.up)
        y = program.expression("gelu(x)", {}, y)
        return program.matrix(y, self.down.weight, self.down.bias, residual=x)

    def macs(self, count: int) -> int:
        """Its multiply-adds for `count` vectors."""
        return 2 * count * self.up.weight.numel()


class LatentLayer(nn.Module):
    """z += Attention(z), z += FFN(z). Shape: `[B, S, D]` → the same."""

    def __init__(self, latent_dim: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(latent_dim, latent_dim, latent_dim, heads)
        self.feed = FeedForward(latent_dim, 4)

    def forward(self, z: Tensor) -> Tensor:
        z = z + self.attention(z)
        y: Tensor = z + self.feed(z)
        return y

    def lower(self, program: Lowering, z: Value) -> Value:
        """The same in a native program."""
        return self.feed.lower(program, self.attention.lower(program, z))

    def macs(self, latents: int) -> int:
        """Its multiply-adds."""
        return self.attention.macs(latents, latents) + self.feed.macs(latents)


class Interface(nn.Module):
    """Latents z read the frames x, pass `layers` layers of their own and write to x.

    z += Attention(z, x), z += FFN(z); the `LatentLayer`s; x += Attention(x, z), x += FFN(x). The
    attention between the two is min(C, D) wide. Shape: z `[B, S, D]`, x `[B, W, C]`.
    """

    def __init__(
        self, channels: int, latent_dim: int, layers: int, heads: int, rw_heads: int
    ) -> None:
        super().__init__()
        shared = min(channels, latent_dim)
        self.read = Attention(latent_dim, channels, shared, rw_heads)
        self.read_feed = FeedForward(latent_dim, 4)
        self.think = nn.ModuleList(LatentLayer(latent_dim, heads) for _ in range(layers))
        self.write = Attention(channels, latent_dim, shared, rw_heads)
        self.write_feed = FeedForward(channels, 2)

    def forward(self, z: Tensor, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        z = z + self.read(z, x, valid)
        z = z + self.read_feed(z)
        for layer in self.think:
            z = layer(z)
        x = x + self.write(x, z)
        return z, x + self.write_feed(x)

    def lower(self, program: Lowering, z: Value, x: Value) -> tuple[Value, Value]:
        """The same in a native program."""
        z = self.read_feed.lower(program, self.read.lower(program, z, x))
        for layer in self.think:
            z = layer.lower(program, z)  # type: ignore[operator]
        return z, self.write_feed.lower(program, self.write.lower(program, x, z))

    def macs(self, latents: int, frames: int) -> int:
        """Its multiply-adds for one block."""
        between = self.read.macs(latents, frames) + self.write.macs(frames, latents)
        feeds = self.read_feed.macs(latents) + self.write_feed.macs(frames)
        thinking: int = sum(x.macs(latents) for x in self.think)  # type: ignore[operator]
        return between + feeds + thinking


class Carry(nn.Module):
    """γ ⊙ norm(z + FFN(z)) of the latents z of the block before; γ is `gain` at first."""

    undecayed = ("gain",)

    def __init__(self, latent_dim: int, gain: float) -> None:
        super().__init__()
        self.feed = FeedForward(latent_dim, 4)
        self.norm = nn.LayerNorm(latent_dim, eps=EPS, elementwise_affine=False)
        self.gain = nn.Parameter(torch.full((latent_dim,), float(gain)))

    def forward(self, z: Tensor) -> Tensor:
        y: Tensor = self.gain * self.norm(z + self.feed(z))
        return y

    def lower(self, program: Lowering, z: Value) -> Value:
        """The same in a native program."""
        return program.normalize(self.feed.lower(program, z), EPS, self.gain)


class RIN(Blockwise):
    """Latents Z and a block of frames X pass through `blocks` interfaces; Z goes on to the next.

    Z = P + `Carry`(Z') and X = frames + Q, where Z' are the last latents of the block before, 0
    before the first, and P and Q learned positions. With `carry=False` Z = P. A block without a
    valid frame leaves the latents as they are. Shape: `[B, C, T]` → the same, `window − 1` frames
    later in a stream; Z and P `[S, D]`, Q `[window, C]`. Jabri et al., arXiv:2212.11972.
    """

    undecayed = ("latents", "places")

    def __init__(
        self,
        channels: int,
        window: int,
        latents: int,
        latent_dim: int,
        blocks: int,
        layers: int,
        heads: int,
        rw_heads: int,
        carry: bool,
        gain: float,
    ) -> None:
        super().__init__(window, channels, waits=True)
        if min(latents, latent_dim, blocks, heads, rw_heads) < 1 or layers < 0:
            raise ComponentError(
                f"block rin: latents={latents}, latent_dim={latent_dim}, blocks={blocks}, "
                f"heads={heads}, rw_heads={rw_heads}, layers={layers}; give 1 or more of each, "
                "and layers from 0 up"
            )
        shared = min(channels, latent_dim)
        if latent_dim % heads or shared % rw_heads:
            raise ComponentError(
                f"block rin: heads={heads} of latent_dim={latent_dim}, rw_heads={rw_heads} of "
                f"{shared}; give heads that divide these widths"
            )
        self.latents = nn.Parameter(torch.randn(latents, latent_dim) * START)
        self.places = nn.Parameter(torch.randn(window, channels) * START)
        self.carry = Carry(latent_dim, gain) if carry else None
        self.interfaces = nn.ModuleList(
            Interface(channels, latent_dim, layers, heads, rw_heads) for _ in range(blocks)
        )

    def begin(self) -> Tensor:
        return torch.zeros_like(self.latents)

    def update(self, block: Tensor, valid: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        z = self.latents.expand(len(block), -1, -1)
        if self.carry is not None:
            z = z + self.carry(memory.to(block.dtype))
        x = block + self.places
        for interface in self.interfaces:
            z, x = interface(z, x, valid)
        return x, z

    def lower(self, program: Lowering, x: Value) -> Value:
        def update(body: Lowering, block: Value, memory: Value) -> tuple[Value, Value]:
            carried = (
                body.scaled(memory, 0) if self.carry is None else self.carry.lower(body, memory)
            )
            z, y = body.places(carried, self.latents), body.places(block, self.places)
            for interface in self.interfaces:
                z, y = interface.lower(body, z, y)  # type: ignore[operator]
            return y, z

        return program.blocks(x, self.size, self.begin(), update)

    def macs(self, frames: int) -> int:
        count = len(self.latents)
        carry = self.carry.feed.macs(count) if self.carry else 0
        each = sum(x.macs(count, self.size) for x in self.interfaces)  # type: ignore[operator]
        return math.ceil(frames / self.size) * int(carry + each)


def rin(
    c_in: int,
    c_out: int,
    make_body: BodyMaker,
    index: int = 0,
    depth: int = 1,
    window: int = 32,
    latents: int = 16,
    latent_dim: int = 64,
    blocks: int = 1,
    layers: int = 2,
    heads: int = 4,
    rw_heads: int = 1,
    carry: bool = True,
    gain: float = 0.0,
) -> StreamLayer:
    """A recurrent interface network over blocks of `window` frames; it replaces the block's body.

    Before it are a channel layer and a norm if the block changes the number of channels. A frame
    reads its whole block, so that a stream is window − 1 frames later; `kernel`, `repeat` and
    `lookahead` have no effect. `carry` passes the latents from block to block, as the paper does
    from one denoising step to the next, with a factor γ of 0 at first. In a short training γ stays
    too small to carry anything over several blocks; start at `gain=1` then. Jabri et al.,
    arXiv:2212.11972.
    """
    make_body.narrow_only("rin")
    fields = window, latents, latent_dim, blocks, layers, heads, rw_heads, carry, gain
    return Serial(make_body.matched(c_in, c_out), RIN(c_out, *fields))


def _lower_norm(program: Lowering, x: Value, norm: nn.LayerNorm) -> Value:
    return program.normalize(x, EPS, norm.weight, norm.bias)


def _lower_linear(program: Lowering, x: Value, layer: nn.Linear) -> Value:
    return program.matrix(x, layer.weight, layer.bias)
