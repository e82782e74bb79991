"""The block of TRecViT (paper 117)."""

import copy
from collections.abc import Callable

import pytest
import torch
from speechkit_mixers.rglru import rglru
from speechkit_mixers.trec import BandAttention, Banded, tiled, trec
from torch import Tensor, nn

import speechkit as sk
from speechkit.errors import ComponentError
from speechkit.models import Net
from speechkit.nn import BodyMaker, Chunk, Serial, StreamLayer
from speechkit.testing import assert_close, check_native, check_stream
from speechkit.testing.native import check_native_net

Maker = Callable[..., BodyMaker]
Frames = Callable[..., Tensor]
AUDIO = 0.1 * torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))


def run(layer: StreamLayer, x: Tensor) -> Tensor:
    y: Chunk = layer(Chunk.of(x))
    return y.x


def test_paper_117_one_band_is_rglru_and_an_mlp(maker: Maker, frames: Frames) -> None:
    torch.manual_seed(0)
    block = trec(8, 8, maker(), 1, 5, bands=1, heads=2).double().eval()
    plain = rglru(8, 8, maker(), 1, 5, heads=2).double().eval()
    weights = {
        name.removeprefix("time.").replace("body.recurrence.layer.", "body."): value
        for name, value in block.state_dict().items()
        if name.startswith("time.")
    }
    plain.load_state_dict(weights)
    parts = dict(block.named_children())
    assert list(parts) == ["time", "channels"]
    before = run(plain, frames())
    up, down = (block.get_submodule(f"channels.body.layer.layer.{name}") for name in ("up", "down"))
    normal = run(block.get_submodule("channels.body.norm"), before)  # type: ignore[arg-type]
    inside = nn.functional.gelu(run(up, normal))  # type: ignore[arg-type]
    assert_close("trec", before + run(down, inside), run(block, frames()), 1e-12)  # type: ignore[arg-type]


def test_paper_117_bands_share_their_weights(maker: Maker, frames: Frames) -> None:
    torch.manual_seed(0)
    block = trec(12, 12, maker(), bands=3, heads=2).double().eval()
    x = frames(12)
    turned = x.unflatten(1, (3, 4)).roll(1, 1).flatten(1, 2)
    expected = run(block, x).unflatten(1, (3, 4)).roll(1, 1).flatten(1, 2)
    assert_close("turned", expected, run(block, turned), 1e-12)
    # a band reads the others by attention only
    changed = x.clone()
    changed[:, 4:] += 1
    time = block.get_submodule("time.body.recurrence")
    assert isinstance(time, Banded)
    assert torch.equal(run(time, x)[:, :4], run(time, changed)[:, :4])
    assert not torch.isclose(run(block, x)[:, :4], run(block, changed)[:, :4]).any()


def test_paper_117_attention_over_bands_is_torchs(frames: Frames) -> None:
    torch.manual_seed(0)
    layer = BandAttention(4, 3, 2).double()
    known = nn.MultiheadAttention(4, 2, batch_first=True).double()
    maps = layer.query, layer.key, layer.value
    known.in_proj_weight.data = torch.cat([m.weight for m in maps])
    known.in_proj_bias.data = torch.cat([m.bias for m in maps if m.bias is not None])
    known.out_proj.load_state_dict(layer.output.state_dict())
    x = frames(12)
    tokens = x.transpose(1, 2).reshape(-1, 3, 4)
    expected = known(tokens, tokens, tokens)[0].reshape(2, 12, 12).transpose(1, 2)
    assert_close("attention", expected, run(layer, x), 1e-12)


def test_paper_117_a_tiled_layer_is_the_same_in_every_band(maker: Maker, frames: Frames) -> None:
    torch.manual_seed(0)
    block = trec(12, 12, maker(), bands=3, heads=2).double()
    layer = block.get_submodule("time.body.recurrence")
    assert isinstance(layer, Banded)
    weights = copy.deepcopy(layer.layer.state_dict())
    assert_close("tiled", run(layer, frames(12)), run(tiled(layer.layer, 3), frames(12)), 1e-12)
    for name, value in layer.layer.state_dict().items():
        assert torch.equal(value, weights[name])


def test_paper_117_a_stream_and_the_native_step_equal_the_whole(
    maker: Maker, frames: Frames
) -> None:
    torch.manual_seed(0)
    block = trec(8, 12, maker(), bands=2, heads=3).eval()
    check_native(block, frames(count=30).float(), torch.tensor([30, 13]))
    check_stream(block.double(), frames(count=30), torch.tensor([30, 13]), chunks=([1, 16, 13],))
    rows = (
        sk.Block(channels=24, kernel=5, stride=2),
        sk.Block(channels=24, kernel=5, residual=True),
    )
    check_native_net(sk.QuartzNet(labels=("a",), blocks=rows, block="mixers/trec:heads=3"))


def test_paper_117_the_first_weights_of_a_built_net_are_those_of_the_paper(
    family: Callable[..., Net],
) -> None:
    model = sk.build(family(block="mixers/trec")).eval()
    blocks = [
        b for b in model.encoder.children() if isinstance(b, Serial) and "bands" in b._modules
    ]
    depth = len(list(model.encoder.children()))
    assert len(blocks) == sum(row.residual * row.copies for row in model.config.blocks)
    for block in blocks:
        out = block.get_parameter("time.body.recurrence.layer.out.weight")
        assert out.std().item() == pytest.approx((2 / depth / len(out)) ** 0.5, rel=0.15)
    assert model(AUDIO).scores.isfinite().all()


def test_paper_117_bands_that_do_not_divide_are_refused(maker: Maker) -> None:
    for fields in ({"bands": 3}, {"heads": 3}, {"mlp": 0}):
        with pytest.raises(ComponentError, match="give bands that divide both"):
            trec(8, 8, maker(), **{"bands": 2, "heads": 2, **fields})
