"""Single intra-channel convolution: a depthwise convolution with a shortcut of its own."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from speechkit import ops
from speechkit.nn import Conv, DepthwiseConv, LookAhead, StreamLayer
from speechkit.ops.depthwise_conv import implementation
from speechkit.ops.explain import Choice

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value


class SingleIntraChannel(Conv):
    """y[c, o] = x[c, o · stride] + (w_c * x_c)[o], without bias.

    The 1×1 layer after it is the paper's linear projection. Shape: x `[B, C, T]`, weight
    `[C, 1, kernel]`, y `[B, C, ceil(T / stride)]`. Wang, Liu & Foroosh, arXiv:1608.04337.
    """

    def __init__(
        self,
        channels: int,
        kernel: int,
        stride: int = 1,
        dilation: int = 1,
        lookahead: LookAhead = "same",
    ) -> None:
        super().__init__(kernel, stride, dilation, lookahead)
        self.weight = nn.Parameter(torch.empty(channels, 1, kernel))
        nn.init.xavier_uniform_(self.weight)

    def implementation(self) -> Choice:
        """The implementation of its convolution."""
        return implementation(self.weight)

    def compute(self, x: Tensor, frames: int, valid: Tensor) -> Tensor:
        if not frames:
            return x[:, :, :0]
        own = x[:, :, self.left : self.left + (frames - 1) * self.stride + 1 : self.stride]
        return own + super().compute(x, frames, valid)

    def convolve(self, window: Tensor) -> Tensor:
        return ops.depthwise_conv(window, self.weight, self.stride, self.dilation)

    @torch.no_grad()
    def fuse(self) -> StreamLayer:
        """One depthwise convolution that is equal in evaluation."""
        # the distance of taps that has one at the frame itself
        dilation = math.gcd(self.dilation, self.left)
        kernel = (self.span - 1) // dilation + 1
        simpler = DepthwiseConv(len(self.weight), kernel, self.stride, dilation, self.right)
        simpler.to(self.weight).requires_grad_(False).weight.zero_()
        simpler.weight[:, :, :: self.dilation // dilation] = self.weight
        simpler.weight[:, :, self.left // dilation] += 1
        return simpler

    def lower(self, program: Lowering, x: Value) -> Value:
        return program.add(self.fuse(), x)

    def exportable(self) -> nn.Module:
        return self.fuse().exportable()

    def macs(self, frames: int) -> int:
        return self.weight.numel() * self.frames_out(frames)
