"""A stack that gives one frame for an utterance, which a few queries collect block by block."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from speechkit.errors import ComponentError, StreamError
from speechkit.nn import Chunk, Dropout, Pointwise, Serial, State, StreamLayer
from speechkit_mixers.heads import attend, split_heads


class HeadAttention(nn.Module):
    """Attention with `heads` heads of queries `[B, Q, D]` to frames `[B, T, D]`: `[B, Q, D]`.

    The maps have no bias. Only the `valid` frames `[B, T]` are read; without one the result is 0.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (
            nn.Linear(dim, dim, bias=False) for _ in range(4)
        )

    def forward(self, queries: Tensor, frames: Tensor, valid: Tensor) -> Tensor:
        q, k, v = (
            split_heads(part, self.heads)
            for part in (self.query(queries), self.key(frames), self.value(frames))
        )
        y: Tensor = self.out(attend(q * q.shape[3] ** -0.5, k, v, valid[:, None, None]))
        return y


class Cell(nn.Module):
    """One step over depth, from h `[B, Q, D]` and a block's output x `[B, T, D]` to the next h:

        h = h + ids                             sines and cosines of the query's number
        r = h + SA(LN h),  t = XA(LN h, LN x)   attention to the queries, and to the valid frames
        h = a(r) ⊙ σ(U t + b_f) + a(t) ⊙ σ(W t + b_i)
        h = h + MLP(LN h)

    SA and XA are `HeadAttention`; a is the identity, or tanh. The biases of the gates start at 0.
    """

    ids: Tensor
    undecayed = "norm", "frame_norm", "last_norm"

    def __init__(self, dim: int, queries: int, heads: int, tanh: bool, ids: bool) -> None:
        super().__init__()
        self.tanh = tanh
        self.among, self.across = HeadAttention(dim, heads), HeadAttention(dim, heads)
        self.norm, self.frame_norm, self.last_norm = (nn.LayerNorm(dim) for _ in range(3))
        self.keep, self.take = nn.Linear(dim, dim), nn.Linear(dim, dim)
        nn.init.zeros_(self.keep.bias)
        nn.init.zeros_(self.take.bias)
        self.mlp = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.GELU(), Dropout(0.05), nn.Linear(4 * dim, dim)
        )
        self.register_buffer("ids", sinusoids(queries, dim) * float(ids), persistent=False)

    def forward(self, h: Tensor, x: Tensor, valid: Tensor) -> Tensor:
        h = h + self.ids.to(h.dtype)
        normal = self.norm(h)
        every = torch.ones_like(h[:, :, 0], dtype=torch.bool)
        r = h + self.among(normal, normal, every)
        t = self.across(normal, self.frame_norm(x), valid)
        kept, taken = self.keep(t).sigmoid(), self.take(t).sigmoid()
        if self.tanh:
            r, t = r.tanh(), t.tanh()
        h = r * kept + t * taken
        y: Tensor = h + self.mlp(self.last_norm(h))
        return y


class DepthFusion(StreamLayer):
    """y = W mean_q h, where one `Cell` updates h with the output of each block in turn.

    h starts as learned `queries`, N(0, 0.2²). The outputs of the last `levels` blocks pass a 1×1
    layer of their own to `dim` channels. The means of h over the queries are the utterance's only
    frame: y `[B, C', 1]`, with the channels C' of the last block. Caffagni et al., ReT,
    arXiv:2503.01980, with one modality.
    """

    left = right = math.inf
    per_clip = True
    undecayed = ("queries",)

    def __init__(
        self,
        blocks: list[StreamLayer],
        dim: int,
        queries: int,
        heads: int,
        levels: int,
        tanh: bool,
        ids: bool,
    ) -> None:
        super().__init__()
        self.blocks = Serial(*blocks)
        self.stride, self.rate = self.blocks.stride, self.blocks.rate
        widths = [0]
        for block in blocks:
            widths.append(block.channels_out(widths[-1]))
        self.levels, self.channels = levels, widths[-1]
        self.adapters = nn.ModuleList(Pointwise(width, dim) for width in widths[-levels:])
        self.queries = nn.Parameter(0.2 * torch.randn(queries, dim))
        self.cell = Cell(dim, queries, heads, tanh, ids)
        self.out = nn.Linear(dim, self.channels, bias=False)

    def channels_out(self, c_in: int) -> int:
        return self.channels

    def forward(self, c: Chunk) -> Chunk:
        mean = self.fused(c).mean(1)
        return Chunk(self.out(mean)[:, None].transpose(1, 2), torch.ones_like(c.valid[:, :1]))

    def fused(self, c: Chunk) -> Tensor:
        """h after the last block, `[B, queries, dim]`."""
        h = self.queries.expand(c.x.shape[0], -1, -1)
        first = len(self.blocks) - self.levels
        for index, block in enumerate(self.blocks):
            c = block(c)
            if index >= first:
                level = self.adapters[index - first](Chunk(c.masked, c.valid))
                h = self.cell(h, level.x.transpose(1, 2), c.valid)
        return h

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        raise StreamError(
            "stack 'depth_fusion' reads the whole utterance; use stack=serial to stream"
        )

    def extra_repr(self) -> str:
        return f"levels={self.levels}, queries={len(self.queries)}"


def sinusoids(count: int, dim: int) -> Tensor:
    """sin(p / 10000^(2i / dim)), then the cosines, of the numbers p, `[count, dim]`."""
    rates = 1e4 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angles = torch.arange(count)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :dim].float()


def depth_fusion(
    blocks: list[StreamLayer],
    dim: int = 64,
    queries: int = 8,
    heads: int = 4,
    levels: int | None = None,
    tanh: bool = False,
    ids: bool = True,
) -> DepthFusion:
    """`DepthFusion` of the last `levels` blocks, by default of all."""
    given = len(blocks) if levels is None else levels
    if not 1 <= given <= len(blocks):
        raise ComponentError(
            f"stack depth_fusion: levels={levels} of {len(blocks)} blocks; give 1 to {len(blocks)}"
        )
    if min(dim, queries, heads) < 1 or dim % heads:
        raise ComponentError(
            f"stack depth_fusion: dim={dim}, queries={queries}, heads={heads}; give 1 or more of "
            "each, and heads that divide dim"
        )
    return DepthFusion(blocks, dim, queries, heads, given, tanh, ids)
