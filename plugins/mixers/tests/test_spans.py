"""The mixers that convolve, against the oracle of linear layers."""

import pytest
import torch
from speechkit_mixers.sic import SingleIntraChannel
from speechkit_mixers.sla import HeadConv

from speechkit.nn import Chunk
from speechkit.testing.span import convolution_of


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("lookahead", [0, 2, "same"])
def test_heads_share_the_filters_of_a_convolution(stride: int, lookahead: int) -> None:
    torch.manual_seed(0)
    layer = HeadConv(6, 2, 5, stride, lookahead).double()
    x = torch.randn(1, 17, 6).double().transpose(1, 2)
    y = layer(Chunk.of(x)).x[0]
    filters = layer.weight.repeat(2, 1, 1)
    expected = convolution_of(layer, filters, 6, 17)(x[0], filters)
    torch.testing.assert_close(y, expected.view(y.shape), atol=1e-12, rtol=0)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 3])
def test_a_single_channel_adds_a_convolution_to_itself(stride: int, dilation: int) -> None:
    torch.manual_seed(0)
    layer = SingleIntraChannel(4, 5, stride, dilation, 2).double()
    x = torch.randn(1, 19, 4).double().transpose(1, 2)
    y = layer(Chunk.of(x)).x[0]
    added = convolution_of(layer, layer.weight, 4, 19)(x[0], layer.weight).view(y.shape)
    torch.testing.assert_close(y, x[0, :, ::stride] + added, atol=1e-12, rtol=0)
