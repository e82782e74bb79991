"""Layers with one function for each edge from an input channel to an output channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from speechkit import ops
from speechkit.errors import ComponentError
from speechkit.nn import Chunk, StreamLayer
from speechkit.ops.explain import Choice

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value


class EdgeLayer(StreamLayer):
    """y[o] = Σ_i f_oi(x[i]) at every frame; each f_oi is a weighted sum of features of its input.

    A subclass defines `features` and `weights`. `kept` is the mask of the edges; pruned edges stay
    pruned in training and in the state dict. Shape: `[B, C, T]` → `[B, C', T]`.
    """

    kept: Tensor

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.register_buffer("kept", torch.ones(c_out, c_in, dtype=torch.bool))

    def features(self, x: Tensor) -> Tensor:
        """The features, `[..., C]` → `[..., C, G]`."""
        raise AssertionError("an EdgeLayer is one of its subclasses")

    def lower_features(self, program: Lowering, x: Value) -> Value:
        """Adds `features` to a native program: `[G · C]`, the first of each channel first."""
        program.refuse(f"no native {type(self).__name__}")

    def weights(self) -> Tensor:
        """The weights `[C', C, G]` of the features."""
        raise AssertionError("an EdgeLayer is one of its subclasses")

    def edges(self, x: Tensor) -> Tensor:
        """The value of each edge: x `[..., C]` → `[..., C', C]`."""
        return torch.einsum("...ig,oig->...oi", self.features(x), self._kept_weights())

    def spread(self, x: Tensor) -> Tensor:
        """The standard deviation `[C', C]` of each edge's value over frames x `[N, C]`."""
        features = self.features(x)
        off = (features - features.mean(0)).transpose(0, 1)
        covariance = off.transpose(1, 2) @ off / len(x)
        weights = self._kept_weights()
        variance = torch.einsum("oig,igh,oih->oi", weights, covariance, weights)
        return variance.clamp(min=0).sqrt()

    def channels_out(self, c_in: int) -> int:
        return self.kept.shape[0]

    def implementation(self) -> Choice:
        """The implementation: the features in torch, then a product."""
        return Choice(type(self).__name__, "torch", {})

    def forward(self, c: Chunk) -> Chunk:
        features = self.features(c.x.transpose(1, 2)).flatten(2)
        y = ops.linear(features, self._kept_weights().flatten(1))
        return Chunk(y.transpose(1, 2), c.valid)

    def lower(self, program: Lowering, x: Value) -> Value:
        return self.lower_edges(program, x)

    def lower_edges(self, program: Lowering, x: Value) -> Value:
        """Adds the sum of its edges to a native program."""
        program.require(self, "lower_features", "features")
        weights = self._kept_weights().transpose(1, 2).flatten(1)
        return program.matrix(self.lower_features(program, x), weights)

    def macs(self, frames: int) -> int:
        return self.weights().numel() * frames

    def _kept_weights(self) -> Tensor:
        return torch.where(self.kept.unsqueeze(2), self.weights(), 0)

    def extra_repr(self) -> str:
        c_out, c_in = self.kept.shape
        return f"{c_in}→{c_out}, {self.weights().shape[2]} features an edge"


def at_least(**numbers: tuple[int, int]) -> None:
    """Raises ComponentError if a number is below its minimum; the values are (number, minimum)."""
    for name, (number, least) in numbers.items():
        if number < least:
            raise ComponentError(f"{name}={number}: give at least {least}")
