"""Topological subdivisioning: which channels are connected, and with how many weights."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from speechkit_mixers.topo import Topo, sides, topo

import speechkit as sk
from speechkit.errors import ComponentError
from speechkit.models import Net
from speechkit.nn import Chunk
from speechkit.testing.native import check_native, check_native_net


def connections(layer: Topo) -> torch.Tensor:
    """1 where an output channel reads an input channel, `[C', C]`."""
    ones = copy.deepcopy(layer)
    torch.nn.init.ones_(ones.weight)
    return ones.dense().detach()


@pytest.mark.parametrize(
    ("grid", "window", "weights", "reached"),
    [((16, 16), (8, 8), 16_384, 225 / 256), ((8, 8, 4), (4, 4, 3), 12_288, 49 / 64)],
)
def test_paper_116_windows_of_a_grid(
    grid: tuple[int, ...], window: tuple[int, ...], weights: int, reached: float
) -> None:
    layer = Topo(grid, grid, window)
    mask, size = connections(layer), math.prod(window)
    assert layer.weight.numel() == layer.macs(1) == weights
    # with a depthwise kernel of 33 before it, of 2,162,688 for a dense convolution
    assert weights + 256 * 33 == {2: 24_832, 3: 20_736}[len(grid)]
    assert (mask.sum(0) == size).all()
    assert (mask.sum(1) == size).all()
    assert mask.max() == 1
    two = (mask @ mask > 0).float().mean()
    assert two.item() == pytest.approx(reached)
    assert (mask @ mask @ mask > 0).all()


def test_paper_116_a_window_begins_at_its_place_and_is_cyclic() -> None:
    layer = topo(16, 16)
    # place (3, 2) of 4 × 4 reads rows 3 and 0, columns 2 and 3
    assert connections(layer)[14].nonzero().flatten().tolist() == [2, 3, 14, 15]
    x = torch.randn(2, 16, 3, generator=torch.Generator().manual_seed(0))
    y, w = layer(Chunk.of(x)).x, layer.weight[14]
    by_hand = sum(w[n] * x[:, c] for n, c in enumerate((14, 15, 2, 3)))
    torch.testing.assert_close(y[:, 14], by_hand)


def test_paper_116_a_window_of_the_whole_grid_is_dense() -> None:
    layer = topo(12, 20, share=1.0).double()
    x = torch.randn(2, 12, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    dense = torch.empty(20, 12, dtype=torch.float64)
    for row, places, weights in zip(dense, layer.index, layer.weight, strict=True):
        row[places] = weights.detach()
    assert sorted(layer.index[7].tolist()) == list(range(12))
    torch.testing.assert_close(layer(Chunk.of(x)).x, torch.einsum("oi,bit->bot", dense, x))


@pytest.mark.parametrize(("c_in", "c_out"), [(64, 256), (256, 64), (96, 128), (7, 16)])
def test_input_and_output_may_differ_in_channels(c_in: int, c_out: int) -> None:
    layer = topo(c_in, c_out)
    mask = connections(layer)
    assert (mask.sum(1) == layer.weight.shape[1]).all()
    assert (mask.sum(0) > 0).all()
    check_native(layer, torch.randn(2, c_in, 9, generator=torch.Generator().manual_seed(0)))


def test_sides_are_as_equal_as_the_channels_allow() -> None:
    assert [sides(n, 2) for n in (256, 96, 64, 7, 1)] == [
        *((16, 16), (8, 12), (8, 8), (1, 7), (1, 1)),
    ]
    assert sides(256, 3) == (4, 8, 8)
    assert sides(96, 1) == (96,)


def test_the_first_weights_of_a_built_net_are_its_own(family: Callable[..., Net]) -> None:
    model = sk.build(family(channel="topo"))
    layers = [m for m in model.modules() if isinstance(m, Topo)]
    assert len(layers) >= 8
    for layer in layers:
        fans = layer.weight.shape[1] * (1 + len(layer.weight) / layer.c_in)
        assert 0.97 < layer.weight.abs().max().item() / math.sqrt(6 / fans) <= 1
        # a quarter of the products, since the channels of these nets make even grids
        assert layer.weight.numel() == layer.c_in * len(layer.weight) / 4


def test_a_row_of_a_net_has_it_and_is_fused(family: Callable[..., Net]) -> None:
    net = family()
    rows = list(net.blocks)
    rows[2] = replace(rows[2], channel="topo:dims=3")
    model = sk.build(replace(net, size="", blocks=tuple(rows))).eval()
    # the shortcut too
    assert sum(isinstance(m, Topo) for m in model.modules()) == rows[2].repeat + 1
    ready = sk.prepare(model)
    assert not any(isinstance(m, Topo) for m in ready.modules())
    audio = 0.1 * torch.randn(1, 8000, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(ready(audio).scores, model(audio).scores, rtol=1e-3, atol=1e-4)


def test_a_net_of_it_runs_natively() -> None:
    rows = (
        sk.Block(channels=20, kernel=5, stride=2),
        sk.Block(channels=24, kernel=4, dilation=2, residual=True),
    )
    check_native_net(sk.QuartzNet(labels=("a", "b"), blocks=rows, channel="topo"))


def test_a_wrong_parameter_is_refused() -> None:
    for wrong in ({"dims": 0}, {"share": 0.0}, {"share": 1.5}):
        with pytest.raises(ComponentError, match="give dims from 1 up and a share from 0 to 1"):
            topo(16, 16, **wrong)
