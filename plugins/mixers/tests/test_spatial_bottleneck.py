"""Spatial bottleneck: fewer frames between two convolutions, and as many after them as before."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from speechkit_mixers.spatial_bottleneck import Expand, SpatialBottleneck

import speechkit as sk
from speechkit.errors import ConfigError, SpeechkitError
from speechkit.infer import stream_scores
from speechkit.models.profile import profile
from speechkit.nn import Chunk, DepthwiseConv, LookAhead, Pointwise, Residual
from speechkit.testing import check_native, check_stream

NETS = {
    "quartznet": sk.QuartzNet(size="5x5", frontend="log_mel:normalize=fixed"),
    "matchboxnet": sk.MatchboxNet(labels=("a", "b"), size="3x1x64"),
    "marblenet": sk.MarbleNet(size="3x2x64"),
}


def frames(count: int, channels: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, count, channels, generator=generator, dtype=torch.float64)
    return x.transpose(1, 2)


@pytest.mark.parametrize(
    ("kernel", "rate", "ahead"), [(2, 2, 0), (8, 2, "same"), (5, 3, 1), (7, 2, 0)]
)
def test_paper_116_it_is_a_transposed_convolution(kernel: int, rate: int, ahead: LookAhead) -> None:
    layer = Expand(6, kernel, rate, ahead).double()
    taps = layer.weight.shape[2]
    # w'[c, i + (taps − 1 − j) · rate] = w[c, i, j]
    transposed = layer.weight.view(6, rate, taps).flip(2).transpose(1, 2).reshape(6, 1, -1)
    assert kernel <= transposed.shape[2] < kernel + rate
    z = frames(11)
    expected = F.conv_transpose1d(z, transposed, stride=rate, groups=6)
    start = layer.right * rate
    torch.testing.assert_close(layer(Chunk.of(z)).x, expected[:, :, start : start + 11 * rate])
    check_stream(layer, z, torch.tensor([11, 4]))


def bottleneck(kernel: int, factor: int, ahead: LookAhead = "same") -> SpatialBottleneck:
    down = DepthwiseConv(6, kernel, factor, lookahead=ahead)
    return SpatialBottleneck(down, Pointwise(6, 5), Expand(5, kernel, factor, ahead)).double()


def test_paper_116_without_overlap_it_is_a_product_of_whole_strides() -> None:
    # the paper's kernel is the stride, which looks ahead to the end of it
    layer = bottleneck(3, 3, 2)
    x = frames(10)
    strides = F.pad(x, (0, 2)).unflatten(2, (4, 3))
    low = torch.einsum("bcnk,ck->bcn", strides, layer.body.down.weight[:, 0])  # type: ignore[union-attr,index]
    z = torch.einsum("oc,bcn->bon", layer.body.between.weight, low)  # type: ignore[union-attr]
    up = layer.body.up.weight.view(5, 3)  # type: ignore[union-attr,operator]
    expected = torch.einsum("bon,oi->boni", z, up).flatten(2)[:, :, :10]
    torch.testing.assert_close(layer(Chunk.of(x)).x, expected)
    assert (layer.stride, layer.rate, layer.left, layer.right) == (3, 3, 2, 2)


@pytest.mark.parametrize("kernel", [3, 8])
@pytest.mark.parametrize("ahead", ["same", 0, 2])
def test_paper_116_lengths_stay_and_padding_is_inert(kernel: int, ahead: LookAhead) -> None:
    layer, lengths = bottleneck(kernel, 2, ahead), torch.tensor([13, 6])
    c = Chunk.of(frames(13), lengths)
    y = layer(Chunk(c.x.masked_fill(~c.valid[:, None], torch.nan), c.valid))
    assert y.x.shape == (2, 5, 13)
    assert torch.equal(y.valid, c.valid)
    alone = layer(Chunk.of(c.x[1:, :, :6]))
    torch.testing.assert_close(y.x[1:, :, :6], alone.x)
    # streams begin at whole strides
    check_stream(layer, frames(14), torch.tensor([14, 6]))


@pytest.mark.parametrize("net", NETS)
def test_a_row_of_a_net_has_it_and_streams(net: str) -> None:
    torch.manual_seed(0)
    rows = list(NETS[net].blocks)
    rows[2] = replace(rows[2], block="spatial_bottleneck")
    model = sk.build(replace(NETS[net], size="", blocks=tuple(rows), lookahead=2)).eval()
    found = [m for m in model.modules() if isinstance(m, SpatialBottleneck)]
    assert len(found) == rows[2].repeat
    plain = sk.build(replace(NETS[net], lookahead=2))
    assert model.frame_s == plain.frame_s
    audio = 0.1 * torch.randn(8000, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        offline = model(audio[None]).scores[0]
        ready = sk.prepare(model)
        torch.testing.assert_close(ready(audio[None]).scores[0], offline, rtol=1e-3, atol=1e-4)
    streamed = torch.cat(list(stream_scores(model, audio, chunk_s=0.05)))
    torch.testing.assert_close(
        streamed[-1] if model.per_clip else streamed, offline, rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize(("kernel", "rate", "ahead"), [(2, 2, 0), (8, 2, "same"), (5, 3, 1)])
@pytest.mark.parametrize("c_out", [5, 6, 20])
def test_its_step_is_native(kernel: int, rate: int, ahead: LookAhead, c_out: int) -> None:
    x, lengths = frames(30).float(), torch.tensor([30, 17])
    check_native(Expand(6, kernel, rate, ahead), x, lengths)
    down = DepthwiseConv(6, kernel, rate, lookahead=ahead)
    layer = SpatialBottleneck(down, Pointwise(6, c_out), Expand(c_out, kernel, rate, ahead))
    check_native(layer, x, lengths)


def test_paper_116_the_channel_layer_costs_1_over_factor() -> None:
    rows = [sk.Block(channels=64, kernel=5), sk.Block(channels=64, kernel=4, residual=True)]
    narrow = [*rows[:1], replace(rows[1], block="spatial_bottleneck:factor=4")]
    kinds = {"labels": ("a", "b"), "lookahead": 0}
    whole, part = (
        profile(sk.build(sk.QuartzNet(blocks=tuple(blocks), **kinds))) for blocks in (rows, narrow)
    )
    assert part.not_counted == ()
    # of 4 frames: a product and a kernel, and their 4 taps after it, where there were 4 of each
    saved = 3 * 64 * 64 + 3 * 64 * 4 - 4 * 64
    assert whole.macs_per_s - part.macs_per_s == pytest.approx(25 * saved, rel=0.02)


def test_branches_of_one_frame_rate_may_have_other_strides() -> None:
    block = Residual(bottleneck(3, 2), Pointwise(6, 5).double(), torch.nn.Identity())
    assert (block.stride, block.rate) == (2, 2)


def test_a_wrong_row_is_refused() -> None:
    row = sk.Block(channels=8, kernel=3, residual=True, block="spatial_bottleneck:factor=1")
    first = sk.Block(channels=8, kernel=3)
    with pytest.raises(SpeechkitError, match="factor=1 in a row of stride 1; give factor from 2"):
        sk.build(sk.QuartzNet(blocks=(first, row)))
    strided = sk.Block(channels=8, kernel=3, stride=2, block="spatial_bottleneck")
    with pytest.raises((SpeechkitError, ConfigError), match="in a row of stride 2; give"):
        sk.build(sk.QuartzNet(blocks=(first, strided)))
