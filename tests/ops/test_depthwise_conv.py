"""Every shape that is easy to get wrong, against the reference."""

import pytest
import torch
from torch import Tensor

from speechkit.ops import depthwise_conv
from speechkit.ops.depthwise_conv import reference
from speechkit.testing import assert_close

# batch, channels, frames, taps, stride, dilation
SHAPES = [
    (1, 1, 1, 1, 1, 1),
    (2, 8, 40, 5, 1, 1),
    (2, 3, 33, 33, 1, 1),
    (3, 5, 64, 1, 1, 1),
    (2, 4, 30, 5, 2, 1),
    (2, 4, 31, 5, 2, 1),
    (2, 4, 31, 4, 3, 1),
    (1, 3, 41, 7, 1, 2),
    (2, 3, 40, 7, 1, 2),
    (2, 4, 31, 4, 1, 3),
    (2, 4, 31, 4, 2, 2),
    (1, 7, 87, 29, 1, 2),
]


def operands(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    batch, channels, frames, taps, _, _ = shape
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, frames, channels, dtype=torch.float64, generator=generator)
    weight = torch.randn(channels, 1, taps, dtype=torch.float64, generator=generator)
    return x.transpose(1, 2).requires_grad_(), weight.requires_grad_()


@pytest.mark.parametrize("shape", SHAPES)
def test_output_and_gradients_equal_the_reference(shape: tuple[int, ...]) -> None:
    x, weight = operands(shape)
    *_, stride, dilation = shape
    y = depthwise_conv(x, weight, stride, dilation)
    expected = reference.depthwise_conv(x, weight, stride, dilation)
    dy = torch.randn(
        expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )
    assert_close("y", expected, y, 1e-13)
    grads = torch.autograd.grad(y, (x, weight), dy)
    wanted = torch.autograd.grad(expected, (x, weight), dy)
    for name, ours, theirs in zip(("dx", "dw"), grads, wanted, strict=True):
        assert_close(name, theirs, ours, 1e-13)


@pytest.mark.parametrize("shape", SHAPES)
def test_single_precision_stays_channels_last(shape: tuple[int, ...]) -> None:
    x, weight = (value.detach().float() for value in operands(shape))
    *_, stride, dilation = shape
    y = depthwise_conv(x, weight, stride, dilation)
    expected = reference.depthwise_conv(x.double(), weight.double(), stride, dilation)
    assert_close("y", expected.float(), y, 1e-6)
    assert y.shape[1] == 1 or y.shape[2] == 1 or y.stride(1) == 1


def test_gradients_of_only_what_asks_for_one() -> None:
    x, weight = operands((2, 3, 20, 5, 1, 1))
    frozen = weight.detach()
    (dx,) = torch.autograd.grad(depthwise_conv(x, frozen).sum(), x)
    assert dx.shape == x.shape
    (dw,) = torch.autograd.grad(depthwise_conv(x.detach(), weight).sum(), weight)
    assert dw.shape == weight.shape
