"""Single intra-channel convolution: the identity beside a depthwise convolution."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from speechkit_mixers.sic import SingleIntraChannel
from torch import nn

import speechkit as sk
from speechkit.models import Net
from speechkit.nn import Chunk, DepthwiseConv
from speechkit.testing.native import check_native, check_native_net

SHAPES = [(5, 1, 1, "same"), (33, 2, 1, "same"), (4, 1, 3, "same"), (5, 2, 3, 1), (1, 1, 1, 0)]


def frames(channels: int = 6, count: int = 41) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, count, channels, generator=generator, dtype=torch.float64)
    return x.transpose(1, 2)


@pytest.mark.parametrize("shape", SHAPES)
def test_paper_116_it_is_the_identity_and_a_depthwise_convolution(shape: tuple) -> None:
    layer = SingleIntraChannel(6, *shape).double()
    depthwise = DepthwiseConv(6, *shape).double()
    depthwise.load_state_dict(layer.state_dict())
    c = Chunk.of(frames(), torch.tensor([41, 17]))
    y, made, stride = layer(c), depthwise(c), layer.stride
    torch.testing.assert_close(y.masked, (made.masked + c.masked[:, :, ::stride]))
    nn.init.zeros_(layer.weight)
    assert torch.equal(layer(c).masked, c.masked[:, :, ::stride])


@pytest.mark.parametrize("shape", SHAPES)
def test_one_depthwise_convolution_is_equal(shape: tuple) -> None:
    layer = SingleIntraChannel(6, *shape).double()
    simpler = layer.fuse()
    assert type(simpler) is DepthwiseConv
    assert (simpler.left, simpler.right, simpler.delay) == (layer.left, layer.right, layer.delay)
    c = Chunk.of(frames(), torch.tensor([41, 17]))
    torch.testing.assert_close(simpler(c).masked, layer(c).masked)
    check_native(layer.float(), frames().float(), torch.tensor([41, 17]))


def test_paper_116_a_dense_kernel_of_rank_one_per_channel_unravels() -> None:
    # w[o, i, k] = p[o, i] s[i, k], stacked one after another
    generator = torch.Generator().manual_seed(1)
    p = torch.randn(8, 6, generator=generator, dtype=torch.float64)
    layer = SingleIntraChannel(6, 5).double()
    own = F.one_hot(torch.tensor(2), 5).double()
    dense = p[:, :, None] * (layer.weight[:, 0] + own)
    x = frames()
    expected = F.conv1d(x, dense, padding=2)
    y = torch.einsum("oi,bit->bot", p, layer(Chunk.of(x)).x)
    torch.testing.assert_close(y, expected)


def test_a_row_of_a_net_has_it(family: Callable[..., Net]) -> None:
    net = family()
    rows = list(net.blocks)
    rows[2] = replace(rows[2], mixer="sic")
    model = sk.build(replace(net, size="", blocks=tuple(rows)))
    found = [m for m in model.modules() if isinstance(m, SingleIntraChannel)]
    assert len(found) == rows[2].repeat
    ready = sk.prepare(model.eval())
    assert not any(isinstance(m, SingleIntraChannel) for m in ready.modules())


def test_paper_116_a_net_of_it_runs_natively() -> None:
    rows = (
        sk.Block(channels=20, kernel=5, stride=2),
        sk.Block(channels=24, kernel=4, dilation=2, residual=True),
    )
    check_native_net(sk.QuartzNet(labels=("a", "b"), blocks=rows, mixer="sic"))
