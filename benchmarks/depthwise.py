"""The depthwise convolution only: torch's conv1d and each of our implementations."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.inputs import channels_last, noise
from benchmarks.registry import Benchmark, Contestant, Options, Output, Run
from speechkit import ops
from speechkit.ops.depthwise_conv import IMPLEMENTATIONS

BATCH, FRAMES = 8, 500
SHAPES = ((256, 33, 1), (256, 39, 1), (512, 51, 1), (512, 63, 1), (512, 75, 1), (512, 87, 2))
"""Channels, kernel and dilation of QuartzNet's layers."""


def benchmarks(options: Options) -> list[Benchmark]:
    return [
        Benchmark(
            f"depthwise/{channels}-{kernel}-{dilation}",
            f"forward and backward, batch {BATCH}, {FRAMES} frames, {channels} channels, "
            f"kernel {kernel}, dilation {dilation}",
            (
                Contestant("torch conv1d", partial(conv1d, channels, kernel, dilation)),
                *(
                    Contestant(f"speechkit {impl}", partial(ours, channels, kernel, dilation, impl))
                    for impl in IMPLEMENTATIONS
                    if impl != "reference"
                ),
            ),
        )
        for channels, kernel, dilation in SHAPES
    ]


def inputs(channels: int, kernel: int) -> tuple[Tensor, Tensor, Tensor]:
    """x and the gradient of y `[B, C, T]`, and the weight `[C, 1, K]`."""
    x, gradient = noise(2 * BATCH, channels, FRAMES).chunk(2)
    return x, gradient, noise(channels, 1, kernel)


def conv1d(channels: int, kernel: int, dilation: int) -> Run:
    x, gradient, weight = inputs(channels, kernel)
    x.requires_grad_()
    weight.requires_grad_()
    padding = dilation * (kernel - 1) // 2

    def run() -> Output:
        y = F.conv1d(x, weight, padding=padding, dilation=dilation, groups=channels)
        return y.detach(), *torch.autograd.grad(y, (x, weight), gradient)

    return run


def ours(channels: int, kernel: int, dilation: int, impl: str) -> Run:
    x, gradient, weight = inputs(channels, kernel)
    x, gradient = channels_last(x), channels_last(gradient)
    x.requires_grad_()
    weight.requires_grad_()
    half = dilation * (kernel - 1) // 2

    def run() -> Output:
        y = ops.depthwise_conv(x, weight, dilation=dilation, padding=(half, half), impl=impl)
        return y.detach(), *torch.autograd.grad(y, (x, weight), gradient)

    return run
