"""Convolutions over time that stream: depthwise, dense, and their shared arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit import ops
from speechkit.nn.stream import Chunk, Windowed
from speechkit.ops.depthwise_conv import implementation
from speechkit.ops.explain import Choice
from speechkit.ops.linear import implementation as linear

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value

LookAhead = int | Literal["same"]


def reach(kernel: int, dilation: int, lookahead: LookAhead) -> tuple[int, int]:
    """The numbers of frames before and after its own that a kernel with `lookahead` reads.

    It reads dilation · (kernel − 1) other frames; with "same" half of them are after its own.
    """
    others = dilation * (kernel - 1)
    right = min(others // 2 if lookahead == "same" else lookahead, others)
    return others - right, right


class Conv(Windowed):
    """A convolution over time; subclasses define the convolution of one window of frames.

    span = dilation·(kernel − 1) + 1; right = `lookahead` frames (0 causal, "same" (span − 1) // 2,
    never more than span − 1); left = span − 1 − right. Output frame o reads input frames
    o·stride − left … o·stride + right. Shape: x `[B, C, T]`, y `[B, C', ceil(T / stride)]`.
    """

    weight: nn.Parameter

    def __init__(self, kernel: int, stride: int, dilation: int, lookahead: LookAhead) -> None:
        if kernel < 1 or stride < 1 or dilation < 1:
            raise ValueError(
                f"kernel {kernel}, stride {stride}, dilation {dilation}: give at least 1"
            )
        if lookahead != "same" and lookahead < 0:
            raise ValueError(f"lookahead {lookahead}: give 'same' or a number of frames from 0 up")
        left, right = reach(kernel, dilation, lookahead)
        super().__init__(left, right, stride)
        self.kernel, self.dilation, self.span = kernel, dilation, left + 1 + right

    def convolve(self, window: Tensor) -> Tensor:
        """The unpadded convolution of `window [B, C, T']` in channels-last."""
        raise AssertionError("a Conv is one of its subclasses")

    def compute(self, x: Tensor, frames: int, valid: Tensor) -> Tensor:
        if not frames:
            return x.new_empty(x.shape[0], 0, self.weight.shape[0]).transpose(1, 2)
        return self.convolve(x[:, :, : (frames - 1) * self.stride + self.span])

    def extra_repr(self) -> str:
        shape = f"{self.weight.shape[1]}→{self.weight.shape[0]}"
        return (
            f"{shape}, kernel={self.kernel}, stride={self.stride}, dilation={self.dilation}, "
            f"left={self.left}, right={self.right}"
        )


class DepthwiseConv(Conv):
    """Filters each channel over time separately, without bias.

    Shape: x `[B, C, T]`, weight `[C, 1, kernel]`, y `[B, C, ceil(T / stride)]`.
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

    def forward(self, c: Chunk) -> Chunk:
        padding = self.left, self.right
        y = ops.depthwise_conv(c.x, self.weight, self.stride, self.dilation, padding, c.valid)
        return Chunk(y, self.own(c.valid))

    depthwise = True
    """A 1×1 layer after it may be computed in the same op."""

    def convolve(self, window: Tensor) -> Tensor:
        return ops.depthwise_conv(window, self.weight, self.stride, self.dilation)

    def lower(self, program: Lowering, x: Value) -> Value:
        return program.depthwise(x, self, self.weight)

    def macs(self, frames: int) -> int:
        return self.weight.numel() * self.frames_out(frames)

    def exportable(self) -> nn.Module:
        return _Plain(self, groups=len(self.weight))


class DenseConv(Conv):
    """Every output channel reads every input channel over time, without bias.

    Shape: x `[B, C, T]`, weight `[C', C, kernel]`, y `[B, C', ceil(T / stride)]`.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int,
        stride: int = 1,
        dilation: int = 1,
        lookahead: LookAhead = "same",
    ) -> None:
        super().__init__(kernel, stride, dilation, lookahead)
        self.weight = nn.Parameter(torch.empty(c_out, c_in, kernel))
        nn.init.xavier_uniform_(self.weight)

    def channels_out(self, c_in: int) -> int:
        return self.weight.shape[0]

    def implementation(self) -> Choice:
        """What it runs."""
        if self.kernel == 1:
            return linear(self.weight.squeeze(2))
        return Choice("conv2d", "torch", {})

    def convolve(self, window: Tensor) -> Tensor:
        if self.kernel == 1:
            frames = window[:, :, :: self.stride].transpose(1, 2)
            return ops.linear(frames, self.weight.squeeze(2)).transpose(1, 2)
        return _conv2d(self, window)

    def matrix(self) -> tuple[Tensor, None, int] | None:
        """Its weight `[C', C]`, no bias, and its stride, if its kernel is 1."""
        return (self.weight.squeeze(2), None, self.stride) if self.kernel == 1 else None

    def lower(self, program: Lowering, x: Value) -> Value:
        if matrix := self.matrix():
            return program.matrix(x, *matrix)
        return program.matrix(program.unfold(x, self), self.weight.transpose(1, 2).flatten(1))

    def macs(self, frames: int) -> int:
        return self.weight.numel() * self.frames_out(frames)

    def scale_outputs(self, scale: Tensor) -> None:
        """Multiplies the weights so that the output is multiplied by `scale [C']`."""
        self.weight.mul_(scale[:, None, None])

    def exportable(self) -> nn.Module:
        return _Plain(self)


class _Plain(Conv):
    """A convolution in the form that every runtime supports, for any length."""

    def __init__(self, conv: Conv, groups: int = 1) -> None:
        super().__init__(conv.kernel, conv.stride, conv.dilation, conv.right)
        self.groups = groups
        self.weight = conv.weight
        if conv.kernel == 1 and groups == 1:
            # the weight as a constant matrix, which int8 quantizes
            self.register_buffer("matrix", conv.weight.squeeze(2))

    def channels_out(self, c_in: int) -> int:
        return self.weight.shape[0]

    def convolve(self, window: Tensor) -> Tensor:
        if self.kernel == 1 and self.groups == 1:
            frames = window[:, :, :: self.stride].transpose(1, 2)
            return F.linear(frames, self.get_buffer("matrix")).transpose(1, 2)
        return _conv2d(self, window, self.groups)


def _conv2d(conv: Conv, window: Tensor, groups: int = 1) -> Tensor:
    y = F.conv2d(
        window.unsqueeze(2),
        conv.weight.unsqueeze(2),
        stride=(1, conv.stride),
        dilation=(1, conv.dilation),
        groups=groups,
    )
    return y.squeeze(2)
