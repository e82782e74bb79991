"""All inputs of a layer: each block reads the outputs of all blocks before it, arXiv:2503.22742."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from speechkit.errors import ComponentError
from speechkit.nn import Chunk, StreamLayer
from speechkit_residuals.linked import Linked
from speechkit_residuals.parts import widths

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value


class LinearStack(Linked):
    """x_l = h_{l−1} + Σ_{j<l−1} P_lj h_j is the input of block l; P starts at 0.

    So it starts as the plain stack. The number of matrices grows with the square of the number of
    blocks.
    """

    keeps_input = False

    def __init__(self, blocks: list[StreamLayer]) -> None:
        super().__init__(blocks)
        channels = widths("aila_linear", blocks)
        self.links = nn.ParameterDict(
            {
                f"{level}_to_{index}": torch.zeros(channels[index - 1], channels[level])
                for index in range(2, len(blocks))
                for level in range(index - 1)
            }
        )

    def into(self, index: int, history: list[Chunk]) -> Tensor:
        x = history[-1].x
        for level in range(index - 1):
            earlier = history[level].x.transpose(1, 2) @ self.links[f"{level}_to_{index}"].t()
            x = x + earlier.transpose(1, 2)
        return x

    def lower_into(self, program: Lowering, index: int, history: list[Value]) -> Value:
        x = history[-1]
        for level in range(index - 1):
            link = self.links[f"{level}_to_{index}"]
            x = program.added(program.matrix(history[level], link), x)
        return x


class AttentionStack(Linked):
    """x_l = h_{l−1} + W_o Σ_j α_j W_v h_j, α = softmax_j(W_q h_{l−1} · W_k h_j / √d).

    The attention is over layers, at each frame: j runs over the earlier blocks with the width of
    the latest. `dim` is d times the heads, by default a quarter of the channels. W_o starts at 0,
    so it starts as the plain stack.
    """

    keeps_input = False

    def __init__(self, blocks: list[StreamLayer], dim: int, heads: int) -> None:
        super().__init__(blocks)
        channels = widths("aila_attn", blocks)
        self.sources: dict[int, list[int]] = {}
        self.attentions = nn.ModuleDict()
        for index in range(2, len(blocks)):
            width = channels[index - 1]
            sources = [level for level in range(index) if channels[level] == width]
            if len(sources) > 1:
                self.sources[index] = sources
                self.attentions[str(index)] = LayerAttention(width, dim or width // 4, heads)

    def into(self, index: int, history: list[Chunk]) -> Tensor:
        x = history[-1].x
        if index not in self.sources:
            return x
        attended: Tensor = self.attentions[str(index)](self.attended_states(index, history))
        return x + attended

    def attended_states(self, index: int, history: list[Chunk]) -> list[Tensor]:
        """The outputs that block `index` attends to, the latest last."""
        return [history[level].x for level in self.sources[index]]

    def lower_into(self, program: Lowering, index: int, history: list[Value]) -> Value:
        x = history[-1]
        if index not in self.sources:
            return x
        attention = self.attentions[str(index)]
        assert isinstance(attention, LayerAttention)
        sources = [history[level] for level in self.sources[index]]
        return program.added(attention.lower(program, sources), x)


class LayerAttention(nn.Module):
    """Attention of the last of some layers' outputs to all of them, at each frame.

    Shape: a list of `[B, C, T]` → `[B, C, T]`.
    """

    self_initialized = ("out",)

    def __init__(self, channels: int, dim: int, heads: int) -> None:
        super().__init__()
        if dim < 1 or heads < 1 or dim % heads:
            raise ComponentError(f"stack aila_attn: dim={dim} does not divide by heads={heads}")
        self.heads = heads
        self.query = nn.Linear(channels, dim, bias=False)
        self.key = nn.Linear(channels, dim, bias=False)
        self.value = nn.Linear(channels, dim, bias=False)
        self.out = nn.Linear(dim, channels, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, layers: list[Tensor]) -> Tensor:
        values = self._split(self.value(self._stacked(layers)))
        mixed = (self.weights(layers).unsqueeze(-1) * values).sum(2).flatten(2)
        y: Tensor = self.out(mixed)
        return y.transpose(1, 2)

    def weights(self, layers: list[Tensor]) -> Tensor:
        """α, `[B, T, layers, heads]`, which sums to 1 over the layers."""
        stacked = self._stacked(layers)
        query, keys = self._split(self.query(stacked[:, :, -1:])), self._split(self.key(stacked))
        weights: Tensor = ((query * keys).sum(-1) / query.shape[-1] ** 0.5).softmax(2)
        return weights

    def lower(self, program: Lowering, layers: list[Value]) -> Value:
        """The same in a native program; the softmax is over the layers, in each head's channels."""
        dim = len(self.query.weight)
        # each channel gets the sum over those of its head
        head = torch.arange(dim) // (dim // self.heads)
        same = (head[:, None] == head) / (dim / self.heads) ** 0.5
        query = program.matrix(layers[-1], self.query.weight)
        scores = [
            program.matrix(
                program.expression("a * b", {}, query, program.matrix(x, self.key.weight)), same
            )
            for x in layers
        ]
        values = [program.matrix(x, self.value.weight) for x in layers]
        return program.matrix(program.attended(scores, values), self.out.weight)

    def _stacked(self, layers: list[Tensor]) -> Tensor:
        # [B, T, layers, C]
        return torch.stack([x.transpose(1, 2) for x in layers], dim=2)

    def _split(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (self.heads, -1))
        return heads


def aila_linear(blocks: list[StreamLayer]) -> LinearStack:
    return LinearStack(blocks)


def aila_attn(blocks: list[StreamLayer], dim: int = 0, heads: int = 1) -> AttentionStack:
    return AttentionStack(blocks, dim, heads)
