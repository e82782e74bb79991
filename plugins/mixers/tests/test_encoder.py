"""The block of attention layers, and whose values they read."""

from dataclasses import replace
from typing import cast

import pytest
import torch
from speechkit_mixers.encoder import VALUES, Encoder, encoder
from torch import Tensor, nn

import speechkit as sk
from speechkit.errors import ComponentError
from speechkit.models import Net
from speechkit.nn import (
    Add,
    BatchNorm,
    BodyMaker,
    Chunk,
    DepthwiseConv,
    FrameWise,
    Pointwise,
    Serial,
    StreamLayer,
)
from speechkit.testing import check_native
from speechkit.testing.native import check_native_net

MIXING = [value for value in VALUES if value != "none"]
LENGTHS = torch.tensor([50, 23])


def maker(**fields: object) -> BodyMaker:
    parts: dict[str, object] = {
        "kernel": 5,
        "lookahead": 1,
        "mixer": DepthwiseConv,
        "channel": Pointwise,
        "norm": BatchNorm,
        "activation": lambda channels: FrameWise(nn.ReLU()),
        "merge": lambda channels, index, depth: Add(),
    }
    return BodyMaker(**{**parts, **fields})  # type: ignore[arg-type]


def made(value: str, layers: int = 3, c_in: int = 8, **fields: object) -> StreamLayer:
    torch.manual_seed(0)
    block = encoder(c_in, 8, maker(**fields), layers=layers, value=value).eval()
    for parameter in block.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return block


def inner(block: StreamLayer) -> Encoder:
    return cast(Encoder, list(cast(Serial, block))[1])


def frames() -> Tensor:
    return torch.randn(2, 8, 50, generator=torch.Generator().manual_seed(1)).double()


@torch.no_grad()
def test_paper_093_later_layers_read_half_of_the_first_ones_values() -> None:
    block, x = made("res").double(), frames()
    c, first = Chunk.of(x, LENGTHS), None
    for layer in inner(block):
        n = layer.norm(c)
        v = layer.attention.get_parameter("value.weight") @ n.masked
        first = v if first is None else first
        heads = layer.attention.heads(layer.attention.maps_with(n, (first + v) / 2))
        c = layer.feed(Chunk(c.x + layer.out.weight @ heads.masked, c.valid))
    expected = inner(block).norm(c)
    torch.testing.assert_close(block(Chunk.of(x, LENGTHS)).masked, expected.masked)


def with_shares(own: float, **given: Tensor) -> Tensor:
    block = made("learn")
    block.load_state_dict(given, strict=False)
    for layer in list(inner(block))[1:]:
        layer.shares.data.copy_(torch.tensor([1 - own, own]))
    y: Tensor = block(Chunk.of(frames().float(), LENGTHS)).x
    return y


def test_paper_093_learned_shares_have_the_other_forms_as_bounds_to_the_bit() -> None:
    c = Chunk.of(frames().float(), LENGTHS)
    for value, own in ("none", 1.0), ("res", 0.5):
        block = made(value)
        assert torch.equal(with_shares(own, **block.state_dict()), block(c).x)
    shared = made("shared")
    torch.testing.assert_close(with_shares(0.0, **shared.state_dict()), shared(c).x)


@pytest.mark.parametrize("layers", [2, 5])
def test_paper_093_shared_values_save_a_matrix_in_each_later_layer(layers: int) -> None:
    counts = {v: sum(p.numel() for p in made(v, layers).parameters()) for v in VALUES}
    assert counts["none"] - counts["shared"] == (layers - 1) * 8 * 8
    assert counts["res"] == counts["none"]
    assert counts["learn"] == counts["none"] + (layers - 1) * 2


@pytest.mark.parametrize("lookahead", [0, 2])
@pytest.mark.parametrize("value", VALUES)
def test_paper_093_the_first_values_wait_in_a_stream(value: str, lookahead: int) -> None:
    block = made(value, c_in=6, lookahead=lookahead)
    assert (block.delay, block.right, block.left) == (
        3 * lookahead,
        3 * lookahead,
        12 - block.right,
    )
    x = frames()[:, :6]
    check_native(block, x.float(), LENGTHS)
    sk.testing.check_stream(block.double(), x, LENGTHS)


@pytest.mark.parametrize("value", MIXING)
def test_a_gradient_reaches_every_weight(value: str) -> None:
    block = made(value).train()
    block(Chunk.of(frames().float(), LENGTHS)).masked.square().sum().backward()
    for name, weight in block.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"layers": 1, "value": "res"}, "2 with a value other than none"),
        ({"layers": 0}, "layers=0"),
        ({"value": "first"}, "value none or res or learn or shared"),
        ({"expand": 0}, "expand from 1 up"),
    ],
)
def test_wrong_parameters_are_refused(given: dict[str, object], match: str) -> None:
    with pytest.raises(ComponentError, match=match):
        encoder(8, 8, maker(), **given)  # type: ignore[arg-type]
    with pytest.raises(ComponentError, match="has no stride"):
        encoder(8, 8, maker(stride=2))


FAMILIES: dict[str, Net] = {
    "quartznet": sk.QuartzNet(size="5x5"),
    "matchboxnet": sk.MatchboxNet(labels=("a", "b"), size="3x1x64"),
    "marblenet": sk.MarbleNet(size="3x2x64"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_it_may_be_one_row_of_each_family(family: str) -> None:
    net = FAMILIES[family]
    rows = list(net.blocks)
    rows[1] = replace(rows[1], block="mixers/encoder:value=learn,window=32", copies=1)
    model = sk.build(replace(net, size="custom", blocks=tuple(rows)), seed=0).train()
    audio = 0.1 * torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    model(audio, torch.tensor([4000, 2500])).scores.square().mean().backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
    shares = [weight for name, weight in model.named_parameters() if name.endswith("shares")]
    assert [weight.tolist() for weight in shares] == [[0.5, 0.5]]


def test_its_native_step_is_the_nets() -> None:
    # the softmax of large scores, which rounding changes much, is compared above
    block = "mixers/encoder:value=learn,layers=3,weight=relu"
    rows = (
        sk.Block(channels=24, kernel=5, stride=2),
        sk.Block(channels=24, kernel=5, residual=True, block=block),
        sk.Block(channels=20, kernel=3, residual=True),
    )
    check_native_net(sk.QuartzNet(labels=("a", "b"), blocks=rows))
