"""Lambda layers: what is around a frame becomes a matrix, with which its queries are multiplied."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from speechkit.errors import ComponentError
from speechkit.nn import (
    Add,
    BatchNorm,
    Chunk,
    Conv,
    LookAhead,
    Pointwise,
    Recurrent,
    Residual,
    Serial,
    State,
    StreamLayer,
)
from speechkit_mixers.heads import join_heads, split_heads
from speechkit_mixers.memory import recalled

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value

LARGEST = 60.0
"""Keys are at most this far from 0: in float32 e^±60 and sums of 10⁹ such numbers are finite."""


class Maps(StreamLayer):
    """q = BN(W_q x), κ = W_κ x and v = BN(W_v x), one after another in the channels.

    Shape: `[B, C, T]` → `[B, heads · keys + keys + C / heads, T]`.
    """

    self_initialized = ("linear",)

    def __init__(self, channels: int, heads: int, keys: int) -> None:
        super().__init__()
        self.widths = heads * keys, keys, channels // heads
        self.linear = Pointwise(channels, sum(self.widths))
        nn.init.trunc_normal_(self.linear.weight, std=channels**-0.5)
        self.norm = BatchNorm(self.widths[0] + self.widths[2])

    def channels_out(self, c_in: int) -> int:
        return sum(self.widths)

    def forward(self, c: Chunk) -> Chunk:
        q, keys, v = self.linear(c).x.split(self.widths, dim=1)
        normed = self.norm(Chunk(torch.cat([q, v], dim=1), c.valid)).x
        q, v = normed.split(self.widths[::2], dim=1)
        return Chunk(torch.cat([q, keys, v], dim=1), c.valid)

    def fuse(self) -> Pointwise:
        """The same in evaluation: the norm is folded into the weights."""
        norm, (queries, keys, values) = self.norm.fuse(), self.widths
        (scale, last_scale), (shift, last_shift) = (
            part.split((queries, values)) for part in (norm.scale, norm.shift)
        )
        scale = torch.cat([scale, scale.new_ones(keys), last_scale])
        folded = Pointwise(self.linear.weight.shape[1], sum(self.widths), bias=True)
        folded.weight = nn.Parameter(self.linear.weight.detach() * scale[:, None])
        folded.bias = nn.Parameter(torch.cat([shift, shift.new_zeros(keys), last_shift]))
        return folded

    def lower(self, program: Lowering, x: Value) -> Value:
        return program.add(self.fuse(), x)

    def macs(self, frames: int) -> int:
        return self.linear.macs(frames)


class Content(Recurrent):
    """y_n = Σ_k q_nk λ_nk in each head, λ_nk = Σ_m e^κ_mk v_m / Σ_m e^κ_mk, m = 1 … n.

    All heads share λ. κ is clamped to ±60. Within that λ and its gradients are those of a softmax;
    beyond it κ has no gradient, and a constant added to all κ changes λ. A running maximum would
    need no bound, but no native instruction has one. New nets have |κ| below 30. Output frame o
    belongs to input frame o · stride; an invalid frame leaves the state unchanged. Shape: q, κ
    and v as from `Maps` → `[B, C, ceil(T / stride)]`; state in float64: the sums over m,
    `[B, 1, V, K]` and `[B, K]`.
    """

    def __init__(self, widths: tuple[int, int, int], stride: int) -> None:
        super().__init__()
        self.widths, self.stride = widths, stride
        self.heads = widths[0] // widths[1]

    def channels_out(self, c_in: int) -> int:
        return self.heads * self.widths[2]

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        _, keys, values = self.widths
        shapes = (batch, 1, values, keys), (batch, keys)
        # after some hours a float32 would not grow any more
        return tuple(torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes)

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        self.check_chunk(c)
        if not c.x.shape[2]:
            return Chunk(c.x[:, : self.channels_out(c.x.shape[1])], c.valid), state
        sums, counts = state
        x = c.masked.transpose(1, 2).to(torch.promote_types(c.x.dtype, torch.float32))
        q, keys, v = x.split(self.widths, dim=2)
        k = torch.where(c.valid[:, :, None], keys.clamp(-LARGEST, LARGEST).exp(), 0)
        counted = counts[:, None] + k.double().cumsum(1)
        # no frame came before one that is not valid
        shares = torch.where(c.valid[:, :, None], counted, 1).reciprocal().to(q.dtype)
        q = split_heads(q, self.heads) * shares[:, None]
        o, sums = recalled(q, k[:, None], v[:, None], c.valid, sums)
        y = join_heads(o[:, :, :: self.stride]).to(c.x.dtype).transpose(1, 2)
        return Chunk(y, c.valid[:, :: self.stride]), (sums, counted[:, -1])

    def lower(self, program: Lowering, x: Value) -> Value:
        queries, keys, values = self.widths
        bounds = {"most": LARGEST}
        k = program.expression(
            "exp(min(max(x, -most), most))", bounds, program.part(x, queries, keys)
        )
        given = program.join(
            program.part(x, 0, queries),
            program.repeat(k, self.heads),
            program.repeat(program.part(x, queries + keys, values), self.heads),
        )
        return program.emit(
            "linear_attention",
            given,
            rows=x.rows // self.stride,
            channels=self.heads * values,
            stride=self.stride,
            size=self.heads,
            taps=keys,
            numbers=[0, True],
        )

    def macs(self, frames: int) -> int:
        _, keys, values = self.widths
        # v kᵀ, and that times q of each head
        return (1 + self.heads) * keys * values * frames


class Position(Conv):
    """y_n = Σ_k q_nk Σ_j E_kj v_{n+j} in each head, over the frames n + j of the kernel.

    Shape: q, κ and v as from `Maps`, weight E `[K, 1, kernel]` → `[B, C, ceil(T / stride)]`.
    """

    self_initialized = ("weight",)

    def __init__(
        self,
        widths: tuple[int, int, int],
        kernel: int,
        stride: int,
        dilation: int,
        lookahead: LookAhead,
    ) -> None:
        super().__init__(kernel, stride, dilation, lookahead)
        self.widths, self.heads = widths, widths[0] // widths[1]
        self.weight = nn.Parameter(torch.empty(widths[1], 1, kernel))
        nn.init.trunc_normal_(self.weight, std=widths[1] ** -0.5)

    def channels_out(self, c_in: int) -> int:
        return self.heads * self.widths[2]

    def compute(self, x: Tensor, frames: int, valid: Tensor) -> Tensor:
        queries, keys, values = self.widths
        if not frames:
            return x[:, : self.heads * values, :0]
        x = x[:, :, : (frames - 1) * self.stride + self.span].transpose(1, 2)
        own = x[:, self.left : self.left + (frames - 1) * self.stride + 1 : self.stride, :queries]
        # E weighs what the kernel reads as q says, so that no λ is needed: [B, T, H, kernel]
        scores = own.unflatten(2, (self.heads, keys)) @ self.weight.flatten(1)
        windows = x[:, :, queries + keys :].unfold(1, self.span, self.stride)[..., :: self.dilation]
        y: Tensor = scores @ windows.transpose(2, 3)
        return y.flatten(2).transpose(1, 2)

    def lower(self, program: Lowering, x: Value) -> Value:
        queries, keys, values = self.widths
        windows = program.unfold(program.part(x, queries + keys, values), self)
        # the frames to which the outputs belong are so much older than the latest
        wait = self.keep - self.left
        # one row for each channel of each frame in a window
        weight = self.weight.flatten(1).t().repeat_interleave(values, dim=0)
        heads = []
        for head in range(self.heads):
            own = program.part(x, head * keys, keys)
            own = program.emit("delay", own, keep=wait) if wait else own
            scores = program.matrix(own, weight, stride=self.stride)
            weighed = program.expression("a * b", {}, scores, windows)
            heads.append(program.fold(weighed, self.kernel))
        return program.join(*heads)

    def macs(self, frames: int) -> int:
        _, keys, values = self.widths
        return self.heads * self.kernel * (keys + values) * self.frames_out(frames)


def lambda_layer(
    channels: int,
    kernel: int,
    stride: int,
    dilation: int,
    lookahead: LookAhead,
    heads: int = 4,
    keys: int = 16,
) -> Serial:
    """y_n = (λ_n + Σ_j E_j v_{n+j}ᵀ)ᵀ q_n, λ_n the mean of k_m v_mᵀ, k a softmax over m = 1 … n.

    In each of `heads` heads q has `keys` numbers; k and v are the same in all heads. The sum over j
    is over the frames of the kernel. The paper's λ is of all frames; we stop at frame n. Shape:
    `[B, C, T]` → `[B, C, ceil(T / stride)]`. Bello, arXiv:2102.08602.
    """
    if heads < 1 or channels % heads or keys < 1:
        raise ComponentError(
            f"mixer lambda: heads={heads}, keys={keys} for {channels} channels; give heads that "
            "divide the channels, and keys from 1 up"
        )
    maps = Maps(channels, heads, keys)
    position = Position(maps.widths, kernel, stride, dilation, lookahead)
    return Serial(maps=maps, sum=Residual(Content(maps.widths, stride), position, Add()))
