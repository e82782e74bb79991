"""Edges and activations that are polynomials of tanh x."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from speechkit.errors import ComponentError
from speechkit.nn import Chunk
from speechkit_kan.basis import SQUASHED, chebyshev, chebyshev_sum, lower_chebyshev, squashing
from speechkit_kan.edges import EdgeLayer, at_least

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value


class ChebyKAN(EdgeLayer):
    """y[o] = LayerNorm_o(Σ_i Σ_n c_oin T_n(tanh x[i])), n from 0 to `degree`.

    `norm` is "layer" or "none", `squash` "tanh" or "clip". Coefficients start in ± the square root
    of 6 / ((C + C')(degree + 1)). The learned activation of SL²A-INR, arXiv:2409.10836.
    """

    undecayed = ("norm",)

    def __init__(
        self, c_in: int, c_out: int, degree: int = 4, squash: str = "tanh", norm: str = "layer"
    ) -> None:
        super().__init__(c_in, c_out)
        at_least(degree=(degree, 0))
        self.degree = degree
        self.squash, self.squashed = squashing(squash, "tanh", "clip"), squash
        self.coefficients = nn.Parameter(torch.empty(c_out, c_in, degree + 1))
        bound = (6 / ((c_in + c_out) * (degree + 1))) ** 0.5
        nn.init.uniform_(self.coefficients, -bound, bound)
        self.norm = layer_norm(norm, c_out)

    def features(self, x: Tensor) -> Tensor:
        return chebyshev(self.squash(x), self.degree)

    def lower_features(self, program: Lowering, x: Value) -> Value:
        inside = program.expression(SQUASHED[self.squashed], {}, x)
        return lower_chebyshev(program, inside, self.degree)

    def weights(self) -> Tensor:
        return self.coefficients

    def forward(self, c: Chunk) -> Chunk:
        y = super().forward(c)
        if self.norm is None:
            return y
        return Chunk(self.norm(y.x.transpose(1, 2)).transpose(1, 2), c.valid)

    def lower(self, program: Lowering, x: Value) -> Value:
        y = self.lower_edges(program, x)
        return y if self.norm is None else lower_layer_norm(program, y, self.norm)


HIGHEST = 8
"""The highest degree of an expression, whose length doubles with each second degree."""


class Chebyshev(nn.Module):
    """y[c] = Σ_n a_cn T_n(tanh x[c]): an activation that each channel learns; it starts as tanh.

    Shape: `[B, C, T]` → the same. The learned activation of SL²A-INR without its mixing of
    channels, arXiv:2409.10836.
    """

    undecayed = ("coefficients",)

    def __init__(self, channels: int, degree: int = 4, squash: str = "tanh") -> None:
        super().__init__()
        at_least(degree=(degree, 1))
        self.squash = squashing(squash, "tanh", "clip")
        self.expression = _clenshaw(degree, SQUASHED[squash]) if degree <= HIGHEST else ""
        self.coefficients = nn.Parameter(torch.zeros(channels, degree + 1))
        with torch.no_grad():
            self.coefficients[:, 1] = 1

    def forward(self, x: Tensor) -> Tensor:
        frames = self.squash(x.transpose(1, 2))
        return chebyshev_sum(frames, self.coefficients).transpose(1, 2)

    @property
    def by_degree(self) -> Tensor:
        """The coefficients `[degree + 1, C]`."""
        return self.coefficients.T


def _clenshaw(degree: int, t: str) -> str:
    """The sum of `chebyshev_sum` as an expression."""
    later, last = f"by_degree[{degree}]", ""
    for n in range(degree - 1, 0, -1):
        less = f" - {last}" if last else ""
        later, last = f"(by_degree[{n}] + 2 * {t} * {later}{less})", later
    return f"by_degree[0] + {t} * {later}" + (f" - {last}" if last else "")


def lower_layer_norm(program: Lowering, x: Value, norm: nn.LayerNorm) -> Value:
    """Adds a layer norm over the channels to a native program."""
    return program.normalize(x, norm.eps, norm.weight, norm.bias)


def layer_norm(norm: str, channels: int) -> nn.LayerNorm | None:
    """The layer norm of `channels` if `norm` is "layer"; None if it is "none"."""
    if norm not in ("layer", "none"):
        raise ComponentError(f"norm={norm!r}: give layer or none")
    if norm == "layer" and channels == 1:
        raise ComponentError("norm='layer' of one channel is constant; give norm=none")
    return nn.LayerNorm(channels) if norm == "layer" else None
