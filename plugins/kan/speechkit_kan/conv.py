"""Convolutions over time whose taps are learned functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.nn import Conv, LookAhead
from speechkit.ops.explain import Choice
from speechkit_kan.basis import (
    SQUASHED,
    b_splines,
    chebyshev,
    even_knots,
    lower_chebyshev,
    lower_radial,
    lower_splines,
    radial,
)
from speechkit_kan.edges import at_least

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value


class KANConv(Conv):
    """y[c, t] = Σ_k f_ck(x[c, t + k]), f_ck(x) = w_ck base(x) + a_ck Σ_n b_ckn φ_n(x).

    A subclass defines base and φ. With `shared`, all channels have the same functions. Frames
    before the start and after the end are x = 0; f may be nonzero there. The b start with the
    standard deviation 1 / (kernel · functions), a at 1. Shape: x `[B, C, T]`, y
    `[B, C, ceil(T / stride)]`. RKAN, arXiv:2410.05500.
    """

    undecayed = ("scale",)

    def __init__(
        self,
        channels: int,
        shape: tuple[int, int, int, LookAhead],
        functions: int,
        shared: bool,
    ) -> None:
        super().__init__(*shape)
        self.channels = channels
        rows = 1 if shared else channels
        self.weight = nn.Parameter(torch.empty(rows, 1, self.kernel))
        nn.init.xavier_uniform_(self.weight)
        self.scale = nn.Parameter(torch.ones(rows, self.kernel))
        self.coefficients = nn.Parameter(torch.empty(rows, self.kernel, functions))
        nn.init.normal_(self.coefficients, std=1 / (self.kernel * functions))

    def base(self, x: Tensor) -> Tensor:
        """base, the factor of the weight w, `[B, T, C]` → the same."""
        return F.silu(x)

    def functions(self, x: Tensor) -> Tensor:
        """φ, `[B, T, C]` → `[B, T, C, functions]`."""
        raise AssertionError("a KANConv is one of its subclasses")

    def lower_terms(self, program: Lowering, x: Value) -> Value:
        """Adds base and φ to a native program: `[(1 + functions) · C]`."""
        program.refuse(f"no native {type(self).__name__}")

    def implementation(self) -> Choice:
        """The implementation of its convolution."""
        return Choice("conv2d", "torch", {})

    def compute(self, x: Tensor, frames: int, valid: Tensor) -> Tensor:
        # no frames have as many channels as any others, also where a kernel is shared
        return super().compute(x, frames, valid) if frames else x[:, :, :0]

    def convolve(self, window: Tensor) -> Tensor:
        x = window.transpose(1, 2)
        channels = x.shape[2]
        terms = torch.cat([self.base(x).unsqueeze(3), self.functions(x)], dim=3)
        rest = (self.coefficients * self.scale.unsqueeze(2)).transpose(1, 2)
        kernels = torch.cat([self.weight, rest], dim=1).expand(channels, -1, -1)
        y = F.conv2d(
            terms.flatten(2).transpose(1, 2).unsqueeze(2),
            kernels.unsqueeze(2),
            stride=(1, self.stride),
            dilation=(1, self.dilation),
            groups=channels,
        )
        return y.squeeze(2)

    @torch.no_grad()
    def lower(self, program: Lowering, x: Value) -> Value:
        """Convolutions of each φ − φ(0), which is 0 where a frame is not valid, and their sum."""
        program.require(self, "lower_terms", "functions")
        program.require(self, "lower_terms", "base")
        zero = self.weight.new_zeros(1, 1, self.channels)
        at_zero = torch.cat([self.base(zero).unsqueeze(3), self.functions(zero)], dim=3)[0, 0].t()
        rest = (self.coefficients * self.scale.unsqueeze(2)).transpose(1, 2)
        kernels = torch.cat([self.weight, rest], dim=1).expand(self.channels, -1, -1)
        kernels = kernels.transpose(0, 1).flatten(0, 1)
        off = program.expression(
            "x - zero", {"zero": at_zero.flatten()}, self.lower_terms(program, x)
        )
        y = program.depthwise(off, self, kernels)
        shift = (kernels.sum(1) * at_zero.flatten()).unflatten(0, at_zero.shape).sum(0)
        total = program.fold(y, len(at_zero))
        return program.affine(total, torch.ones_like(shift), shift)

    def macs(self, frames: int) -> int:
        terms = 1 + self.coefficients.shape[2]
        return self.channels * self.kernel * terms * self.frames_out(frames)

    def extra_repr(self) -> str:
        functions, kernels = self.coefficients.shape[2], len(self.weight)
        return f"functions={functions}, kernels={kernels}, {super().extra_repr()}"


class ChebConv(KANConv):
    """base(x) = x, φ_n(x) = T_n(tanh x), n ≤ degree."""

    def __init__(
        self,
        channels: int,
        kernel: int,
        stride: int = 1,
        dilation: int = 1,
        lookahead: LookAhead = "same",
        degree: int = 3,
        shared: bool = False,
    ) -> None:
        at_least(degree=(degree, 0))
        super().__init__(channels, (kernel, stride, dilation, lookahead), degree + 1, shared)
        self.degree = degree

    def base(self, x: Tensor) -> Tensor:
        return x

    def functions(self, x: Tensor) -> Tensor:
        return chebyshev(x.tanh(), self.degree)

    def lower_terms(self, program: Lowering, x: Value) -> Value:
        inside = program.expression(SQUASHED["tanh"], {}, x)
        return program.join(x, lower_chebyshev(program, inside, self.degree))


class SplineConv(KANConv):
    """base(x) = SiLU(x), φ the B-splines of degree `order` over `grid` intervals of [−1, 1]."""

    knots: Tensor

    def __init__(
        self,
        channels: int,
        kernel: int,
        stride: int = 1,
        dilation: int = 1,
        lookahead: LookAhead = "same",
        grid: int = 5,
        order: int = 3,
        shared: bool = False,
    ) -> None:
        at_least(grid=(grid, 1), order=(order, 0))
        super().__init__(channels, (kernel, stride, dilation, lookahead), grid + order, shared)
        self.order = order
        self.register_buffer("knots", even_knots(grid, order)[None])

    def functions(self, x: Tensor) -> Tensor:
        return b_splines(x, self.knots, self.order)

    def lower_terms(self, program: Lowering, x: Value) -> Value:
        splines = lower_splines(program, x, self.knots, self.order)
        return program.join(program.expression("silu(x)", {}, x), splines)


class RadialConv(KANConv):
    """base(x) = SiLU(x), φ Gaussians around `grid` centres from −2 to 2."""

    places: Tensor

    def __init__(
        self,
        channels: int,
        kernel: int,
        stride: int = 1,
        dilation: int = 1,
        lookahead: LookAhead = "same",
        grid: int = 8,
        shared: bool = False,
    ) -> None:
        at_least(grid=(grid, 2))
        super().__init__(channels, (kernel, stride, dilation, lookahead), grid, shared)
        self.register_buffer("places", torch.linspace(-2, 2, grid))

    def functions(self, x: Tensor) -> Tensor:
        return radial(x, self.places)

    def lower_terms(self, program: Lowering, x: Value) -> Value:
        bumps = lower_radial(program, x, self.places)
        return program.join(program.expression("silu(x)", {}, x), bumps)
