"""Simulates analog hardware, which computes with few levels and noise."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from speechkit import ops
from speechkit.component import Spec
from speechkit.nn import Chunk, DepthwiseConv, LookAhead, Pointwise, as_layer
from speechkit.plugins import registry

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value


class Hardware(nn.Module):
    """Simulates the input and the output of a layer of analog hardware.

        into: clamp to [−1, 1] → precision → noise
        out:  noise → clamp to [−1, 1] → precision

    Precision is 2^bits − 1 levels on each side of zero. The noise is Gaussian, and the share
    `leakage` of it is larger than half a level. The gradient of precision is 1; that of the clamp
    is 0 outside [−1, 1]. The noise stays on in evaluation, as in hardware, unless `noisy` is
    training. Shah & Youngblood, arXiv:2402.02593.
    """

    def __init__(self, bits: int, leakage: float, noisy: str) -> None:
        super().__init__()
        if noisy not in ("always", "training"):
            raise ValueError(f"noisy={noisy!r}: give always or training")
        self.bits, self.sigma, self.noisy = bits, noise_sigma(bits, leakage), noisy

    def into(self, x: Tensor) -> Tensor:
        return self.disturb(quantize(x.clamp(-1, 1), self.bits))

    def out(self, x: Tensor) -> Tensor:
        return quantize(self.disturb(x).clamp(-1, 1), self.bits)

    def into_steadily(self, program: Lowering, weight: Tensor) -> Tensor:
        """The weight after `into` without noise, for a native program."""
        self.refuse_noise(program)
        return quantize(weight.detach().clamp(-1, 1), self.bits)

    def lower(self, program: Lowering, x: Value) -> Value:
        """Adds `into` or `out`, which are the same without noise, to a native program."""
        self.refuse_noise(program)
        rounded = "sign(x) * ceil(min(abs(x), 1) * levels - 0.5) / levels"
        return program.expression(rounded, {"levels": 2.0**self.bits - 1}, x)

    def refuse_noise(self, program: Lowering) -> None:
        """Raises LoweringError if there is noise in evaluation."""
        if self.noisy != "training":
            program.refuse("no native Hardware with noise")

    def disturb(self, x: Tensor) -> Tensor:
        """x with noise, if the noise is on."""
        if not self.training and self.noisy == "training":
            return x
        return x + self.sigma * torch.randn_like(x)


class Analog(nn.Module):
    """An activation f between the output of one layer of analog hardware and the next one's input.

    y = into(f(out(x))) of `Hardware`. The noise of weights is that of `analog_linear` and
    `analog_depthwise`. Shape: as the activation's. Shah & Youngblood, arXiv:2402.02593.
    """

    def __init__(
        self,
        channels: int,
        activation: Spec | str = "gelu",
        bits: int = 4,
        leakage: float = 0.5,
        noisy: str = "always",
    ) -> None:
        super().__init__()
        self.activation = registry().build("activation", activation, channels)
        self.hardware = Hardware(bits, leakage, noisy)

    def forward(self, x: Tensor) -> Tensor:
        return self.hardware.into(self.activation(self.hardware.out(x)))

    def lower(self, program: Lowering, x: Value) -> Value:
        """The activation between `out` and `into` in a native program, if the noise is off."""
        y = program.add(as_layer(self.activation), self.hardware.lower(program, x))
        return self.hardware.lower(program, y)


class AnalogLinear(Pointwise):
    """y = W' x with W' = into(W) of `Hardware`, drawn again in each call.

    Shape and weights are those of `linear`. Shah & Youngblood, arXiv:2402.02593.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        bits: int = 4,
        leakage: float = 0.5,
        noisy: str = "always",
    ) -> None:
        super().__init__(c_in, c_out)
        self.hardware = Hardware(bits, leakage, noisy)

    def forward(self, c: Chunk) -> Chunk:
        y = ops.linear(c.x.transpose(1, 2), self.hardware.into(self.weight)).transpose(1, 2)
        return Chunk(y, c.valid)

    def lower(self, program: Lowering, x: Value) -> Value:
        return program.matrix(x, self.hardware.into_steadily(program, self.weight))


class AnalogDepthwise(DepthwiseConv):
    """A depthwise convolution with weights into(w) of `Hardware`, drawn again in each call.

    Shape and weights are those of `depthwise`. Shah & Youngblood, arXiv:2402.02593.
    """

    def __init__(
        self,
        channels: int,
        kernel: int,
        stride: int = 1,
        dilation: int = 1,
        lookahead: LookAhead = "same",
        bits: int = 4,
        leakage: float = 0.5,
        noisy: str = "always",
    ) -> None:
        super().__init__(channels, kernel, stride, dilation, lookahead)
        self.hardware = Hardware(bits, leakage, noisy)

    def forward(self, c: Chunk) -> Chunk:
        weight, padding = self.hardware.into(self.weight), (self.left, self.right)
        y = ops.depthwise_conv(c.x, weight, self.stride, self.dilation, padding, c.valid)
        return Chunk(y, self.own(c.valid))

    def convolve(self, window: Tensor) -> Tensor:
        weight = self.hardware.into(self.weight)
        return ops.depthwise_conv(window, weight, self.stride, self.dilation)

    def lower(self, program: Lowering, x: Value) -> Value:
        return program.depthwise(x, self, self.hardware.into_steadily(program, self.weight))


def quantize(x: Tensor, bits: int) -> Tensor:
    """sign(x) · ⌈|x| p − 1/2⌉ / p with p = 2^bits − 1; its gradient is 1."""
    levels = 2**bits - 1
    y = torch.sign(x) * torch.ceil(x.abs() * levels - 0.5) / levels
    rounded: Tensor = x + (y - x).detach()
    return rounded


def noise_sigma(bits: int, leakage: float) -> float:
    """The σ of a Gaussian that exceeds half of 1 / (2^bits − 1) with probability `leakage`."""
    if not 0 < leakage < 1:
        raise ValueError(f"leakage={leakage}: give a number between 0 and 1")
    inverse = torch.erfinv(torch.tensor(1 - leakage, dtype=torch.float64)).item()
    sigma: float = 1 / (2 * (2**bits - 1) * math.sqrt(2) * inverse)
    return sigma
