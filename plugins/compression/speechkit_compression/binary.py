"""Layers with binary inputs and binary weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit import ops
from speechkit.nn import (
    Affine,
    Chunk,
    Conv,
    DepthwiseConv,
    FrameWise,
    LookAhead,
    Pointwise,
    Serial,
    StreamLayer,
    as_layer,
)

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value


class Sign(nn.Module):
    """u = 1 where β (x + b / β) ≥ 0, else −1, with a bias b for each channel.

    The gradient is that of 2 sigmoid(3 z), z = β x + b: 1.5 at z = 0. β > 0 changes only the
    gradient. Shape: x `[B, C, T]` → the same. Source: A&B BNN, arXiv:2403.03739.
    """

    undecayed = ("bias",)

    def __init__(self, channels: int, beta: float = 1.0) -> None:
        super().__init__()
        self.beta = beta
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        z = self.beta * (x + (self.bias / self.beta)[:, None])
        smooth = 2 * torch.sigmoid(3 * z)
        # 0, but with a gradient
        return signs(z) + (smooth - smooth.detach())

    def fuse(self) -> Threshold:
        """The same in evaluation, without β."""
        return Threshold((self.bias / self.beta).detach())

    def lower(self, program: Lowering, x: Value) -> Value:
        """The same in a native program."""
        return program.add(self.fuse(), x)


class Threshold(nn.Module):
    """u = 1 where x + shift ≥ 0, else −1. Shape: x `[B, C, T]` → the same, shift `[C]`."""

    shift: Tensor

    def __init__(self, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        return signs(x + self.shift[:, None])

    def lower(self, program: Lowering, x: Value) -> Value:
        """One instruction of a native program."""
        return program.expression("where(x + t >= 0, 1, -1)", {"t": self.shift}, x)


class BinaryPointwise(StreamLayer):
    """A 1×1 layer of signs: y = factor · Σ_c W[c] u[c], u = `Sign`(x), W and factor of `rows`.

    Without `weights` W are real numbers, and only the input is binary; the parameters have the same
    names. y is multiplied by `alpha`. Sums of signs are whole numbers, so y is the same to the bit
    in whatever order they are added. Shape: x `[B, C, T]`, weight `[C', C]`, y `[B, C', T]`.
    """

    undecayed = ("gain",)
    self_initialized = ("weight",)

    def __init__(
        self, c_in: int, c_out: int, weights: bool = True, alpha: float = 1.0, beta: float = 1.0
    ) -> None:
        super().__init__()
        self.binary, self.alpha = weights, alpha
        self.sign = Sign(c_in, beta)
        self.weight, self.gain = first_weights(c_out, c_in)

    def channels_out(self, c_in: int) -> int:
        return len(self.weight)

    def forward(self, c: Chunk) -> Chunk:
        weight, factor = rows(self.weight, self.gain * self.alpha, self.binary)
        y = ops.linear(self.sign(c.x).transpose(1, 2), weight) * factor
        return Chunk(y.transpose(1, 2), c.valid)

    @torch.no_grad()
    def fuse(self) -> StreamLayer:
        """The same in evaluation with constants: a `SignProduct` if the weights are binary."""
        weight, factor = rows(self.weight, self.gain * self.alpha, self.binary)
        if self.binary:
            return SignProduct(self.sign.fuse().shift, weight, factor)
        matrix = Pointwise(weight.shape[1], len(weight)).to(weight).requires_grad_(False)
        matrix.weight.copy_(weight)
        return Serial(FrameWise(self.sign.fuse()), matrix, scaling(factor))

    def lower(self, program: Lowering, x: Value) -> Value:
        return program.add(self.fuse(), x)

    def macs(self, frames: int) -> int:
        return self.weight.numel() * frames

    def exportable(self) -> nn.Module:
        return self.fuse()

    def extra_repr(self) -> str:
        shape = f"{self.weight.shape[1]}→{len(self.weight)}"
        return f"{shape}, weights={self.binary}, alpha={self.alpha}"


class SignProduct(StreamLayer):
    """y = factor · W sign(x + shift), where all of W are 1 or −1 and sign(0) = 1.

    Shape: x `[B, C, T]`, shift `[C]`, W `[C', C]`, factor `[C']`, y `[B, C', T]`.
    """

    shift: Tensor
    weight: Tensor
    factor: Tensor

    def __init__(self, shift: Tensor, weight: Tensor, factor: Tensor) -> None:
        super().__init__()
        self.register_buffer("shift", shift)
        self.register_buffer("weight", weight)
        self.register_buffer("factor", factor)

    def channels_out(self, c_in: int) -> int:
        return len(self.weight)

    def forward(self, c: Chunk) -> Chunk:
        u = signs(c.x.transpose(1, 2) + self.shift)
        return Chunk((F.linear(u, self.weight) * self.factor).transpose(1, 2), c.valid)

    def lower(self, program: Lowering, x: Value) -> Value:
        return program.binary(x, self.shift, self.weight, self.factor)

    def macs(self, frames: int) -> int:
        return self.weight.numel() * frames


class BinaryDepthwise(Conv):
    """A convolution of each channel over time with binary taps, for an input of signs.

    y = factor · (W * u), W and factor of `rows`. Frames that are not valid are 0, no signs: the
    input is masked after its sign is taken. Shape: u `[B, C, T]`, weight `[C, 1, kernel]`,
    y `[B, C, ceil(T / stride)]`.
    """

    undecayed = ("gain",)
    self_initialized = ("weight",)

    def __init__(
        self,
        channels: int,
        kernel: int,
        stride: int = 1,
        dilation: int = 1,
        lookahead: LookAhead = "same",
        weights: bool = True,
        alpha: float = 1.0,
    ) -> None:
        super().__init__(kernel, stride, dilation, lookahead)
        self.binary, self.alpha = weights, alpha
        self.weight, self.gain = first_weights(channels, 1, kernel)

    def convolve(self, window: Tensor) -> Tensor:
        weight, factor = rows(self.weight, self.gain * self.alpha, self.binary)
        y = ops.depthwise_conv(window, weight, self.stride, self.dilation)
        return y * factor[:, None]

    @torch.no_grad()
    def fuse(self) -> Serial:
        """The same in evaluation with constants."""
        weight, factor = rows(self.weight, self.gain * self.alpha, self.binary)
        conv = DepthwiseConv(len(weight), self.kernel, self.stride, self.dilation, self.right)
        conv.to(weight).requires_grad_(False).weight.copy_(weight)
        return Serial(conv, scaling(factor))

    def lower(self, program: Lowering, x: Value) -> Value:
        return program.add(self.fuse(), x)

    def macs(self, frames: int) -> int:
        return self.weight.numel() * self.frames_out(frames)

    def exportable(self) -> nn.Module:
        conv, factor = self.fuse()
        return Serial(as_layer(conv.exportable()), factor)


def signs(x: Tensor) -> Tensor:
    """1 where x ≥ 0, else −1."""
    return 2 * (x >= 0).to(x.dtype) - 1


def first_weights(*shape: int) -> tuple[nn.Parameter, nn.Parameter]:
    """Weights of the shape `[C, …]`, uniform from 0 to 0.001, and gains of 1, `[C]`."""
    return nn.Parameter(1e-3 * torch.rand(shape)), nn.Parameter(torch.ones(shape[0]))


def rows(weight: Tensor, gain: Tensor, binary: bool) -> tuple[Tensor, Tensor]:
    """The signs of the rows of a weight, and the factor of each row, `[C]`.

    Of the n weights of a row, Ŵ = (W − mean) / ((std + 1e-5) √n). A row is gain · s · sign(Ŵ) with
    s = mean |Ŵ|, which has no gradient; sign has that of Ŵ / s. If not `binary`, a row is gain · Ŵ.
    The paper clamps Ŵ to [−1, 1] for the gradient, where it is anyway: its norm is at most 1.
    Shape: weight `[C, …]` → the same. Source: A&B BNN, arXiv:2403.03739.
    """
    flat = weight.flatten(1)
    centred = flat - flat.mean(1, keepdim=True)
    std = centred.square().mean(1, keepdim=True).sqrt()
    standard = centred / ((std + 1e-5) * flat.shape[1] ** 0.5)
    if not binary:
        return standard.view_as(weight), gain
    size = standard.detach().abs().mean(1)
    # the difference is 0, but has a gradient
    found = signs(standard) + (standard - standard.detach()) / size[:, None]
    return found.view_as(weight), gain * size


def scaling(factor: Tensor) -> FrameWise:
    """y = factor · x, with a factor for each channel."""
    return FrameWise(Affine(factor, torch.zeros_like(factor)))
