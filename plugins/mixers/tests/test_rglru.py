"""The gated linear recurrence, alone, as a block and in nets."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from speechkit_mixers.rglru import RGLRU, rglru
from torch import Tensor, nn

import speechkit as sk
from speechkit.errors import ComponentError
from speechkit.infer import stream_scores
from speechkit.models import Block, Net
from speechkit.nn import BodyMaker, Chunk, Residual, StreamLayer
from speechkit.plugins import Registry, using
from speechkit.testing import assert_close, check_stream
from speechkit.testing.native import check_native_net
from speechkit.train.optim import parameter_groups

Maker = Callable[..., BodyMaker]
Frames = Callable[..., Tensor]
AUDIO = 0.1 * torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
BLOCKS = (
    Block(channels=24, kernel=5, stride=2),
    Block(channels=24, kernel=5, residual=True, copies=2),
    Block(channels=20, kernel=3, residual=True),
)


def run(layer: StreamLayer, x: Tensor) -> Tensor:
    y: Chunk = layer(Chunk.of(x))
    return y.x


def test_paper_117_it_equals_a_loop_over_frames(frames: Frames) -> None:
    torch.manual_seed(0)
    layer = RGLRU(8, heads=2).double()
    nn.init.normal_(layer.gate_bias)
    x = frames(count=13).transpose(1, 2)
    h = torch.zeros(2, 8, dtype=torch.float64)
    expected = []
    for t in range(13):
        halves = x[:, t].chunk(2, 1)
        maps = [
            torch.cat([half @ w for half, w in zip(halves, weight, strict=True)], 1)
            + bias.flatten()
            for weight, bias in zip(layer.gates, layer.gate_bias, strict=True)
        ]
        i, r = (m.sigmoid() for m in maps)
        a = torch.exp(-8 * r * torch.nn.functional.softplus(layer.decay))
        h = a * h + (torch.sqrt(1 - a**2) if t else 1.0) * (i * x[:, t])
        expected.append(h)
    assert_close("rglru", torch.stack(expected, 2), run(layer, x.transpose(1, 2)), 1e-12)


def test_paper_111_it_is_attention_to_the_frames_before(frames: Frames) -> None:
    torch.manual_seed(0)
    layer = RGLRU(8, heads=2).double()
    x, lengths = frames(count=13), torch.tensor([13, 9])
    c = Chunk.of(x.clone().index_fill_(2, torch.arange(9, 13), torch.nan), lengths)
    c = Chunk(torch.where(c.valid[:, None], x, c.x), c.valid)
    alpha = layer.implicit_attention(c)
    assert alpha.shape == (2, 8, 13, 13)
    assert not alpha.triu(1).any()
    assert not alpha[1, :, 9:].any()
    assert not alpha[1, :, :, 9:].any()
    attended = (alpha @ c.masked[..., None])[..., 0]
    assert_close("attention", layer(c).masked, attended, 1e-12)


def test_paper_117_chunks_equal_the_whole(frames: Frames) -> None:
    layer = RGLRU(8).double()
    check_stream(layer, frames(count=40), torch.tensor([40, 17]), chunks=([1, 16, 23],))


def test_paper_117_it_starts_uniform_over_the_ring() -> None:
    torch.manual_seed(0)
    layer = RGLRU(4096, heads=64, min_radius=0.1, max_radius=0.9)
    radius = torch.exp(-torch.nn.functional.softplus(layer.decay))
    share = (radius.square() - 0.1**2) / (0.9**2 - 0.1**2)
    assert (share.sort().values - torch.linspace(0, 1, 4096)).abs().max() < 0.03


def test_paper_117_the_recurrence_forgets_slowly(frames: Frames) -> None:
    radius = torch.exp(-torch.nn.functional.softplus(RGLRU(4096).decay))
    assert 0.9 <= radius.min() < 0.91
    assert 0.998 < radius.max() <= 0.999
    layer = RGLRU(8).double()
    # no recurrence gate: a is 1, the state stays and nothing is added
    layer.gate_bias.data[1] = -1e4
    layer.gates.data[1] = 0
    y = run(layer, frames())
    assert (y - y[:, :, :1]).abs().max() < 0.05


def test_paper_117_the_gradient_is_bounded_where_a_is_one() -> None:
    """That of √(1 − a²) is at most 1000; where 1 − a² is 0 it would be infinite."""
    layer = RGLRU(5, heads=1).double()
    layer.gates.data.zero_()
    layer.decay.data.copy_(torch.tensor([-800.0, -40.0, -18.0, -16.6, -16.0]))
    # a first frame of 0, so that h is √(1 − a²) / 2, log a = −4 softplus(Λ)
    run(layer, torch.tensor([0.0, 1.0]).double().expand(1, 5, 2)).sum().backward()
    log_a = -4 * torch.nn.functional.softplus(layer.decay)
    left = -torch.expm1(2 * log_a)
    # in Λ: that of the root, at most 1000, times those of its argument and of log a
    slopes = torch.where(left < 2.5e-7, 0, 0.5 / left.sqrt())
    expected = slopes * torch.exp(2 * log_a) * 4 * layer.decay.sigmoid()
    assert slopes.tolist() == [0, 0, 0, pytest.approx(711, abs=1), pytest.approx(527, abs=1)]
    torch.testing.assert_close(layer.decay.grad, expected)


def test_paper_117_the_block_starts_small_in_deep_nets(maker: Maker) -> None:
    torch.manual_seed(0)
    block = rglru(64, 64, maker(), 0, 8)
    out = block.get_submodule("body.out").weight
    assert isinstance(out, Tensor)
    assert float(out.std().detach()) == pytest.approx((2 / 8 / 64) ** 0.5, rel=0.1)
    assert block.delay == 0
    with pytest.raises(ComponentError, match="heads=3 of 8 channels"):
        rglru(8, 8, maker(), heads=3)
    with pytest.raises(ComponentError, match="expand=0; give a number from 1 up"):
        rglru(8, 8, maker(), expand=0)


def test_one_row_of_a_matchboxnet_may_be_recurrent(tmp_path: Path) -> None:
    rows = list(sk.MatchboxNet(labels=("a", "b"), size="3x1x64").blocks)
    rows[2] = Block(channels=64, kernel=1, residual=True, block="rglru")
    config = sk.MatchboxNet(labels=("a", "b"), blocks=tuple(rows))
    model = sk.build(config).train()
    blocks = list(model.encoder.children())
    kinds = [any(isinstance(m, RGLRU) for m in block.modules()) for block in blocks]
    assert kinds == [False, True, False, False, False]

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(3):
        scores = model(AUDIO, torch.tensor([8000, 6000])).scores
        loss = torch.nn.functional.cross_entropy(scores, torch.tensor([0, 1]))
        optimizer.zero_grad()
        loss.backward()
        assert all(value.grad is not None for value in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[0]

    sk.save(model.eval(), tmp_path / "model")
    again = sk.load(tmp_path / "model")
    assert again.config == config
    with torch.inference_mode():
        offline = again(AUDIO[:1]).scores[0]
        assert torch.equal(offline, model(AUDIO[:1]).scores[0])
    streamed = torch.cat(list(stream_scores(again, AUDIO[0], chunk_s=0.05)))
    torch.testing.assert_close(streamed[-1], offline, rtol=1e-3, atol=1e-4)


def test_paper_117_the_first_weights_of_a_built_net_are_those_of_the_paper(
    family: Callable[..., Net],
) -> None:
    model = sk.build(family(block="rglru"))
    blocks = [b for b in model.encoder.children() if isinstance(b, Residual)]
    assert len(blocks) == sum(row.residual * row.copies for row in model.config.blocks)
    depth = len(list(model.encoder.children()))
    for block in blocks:
        weights = dict(block.body.named_parameters())
        channels = len(weights["out.weight"])
        c_in = weights["product.body.linear.weight"].shape[1]
        for name, std in {
            "product.body.linear.weight": c_in**-0.5,
            "product.shortcut.linear.weight": c_in**-0.5,
            "product.body.conv.weight": 0.1 / 4**0.5,
            "out.weight": (2 / depth / channels) ** 0.5,
        }.items():
            assert weights[name].std().item() == pytest.approx(std, rel=0.15), name


def test_its_decay_is_kept_out_of_weight_decay() -> None:
    model = sk.build(sk.QuartzNet(labels=("a",), blocks=BLOCKS, block="rglru:heads=4"))
    decayed, spared = ({id(p) for p in group["params"]} for group in parameter_groups(model))
    own = [id(p) for n, p in model.named_parameters() if n.endswith("lru.decay")]
    assert len(own) == len(spared) == 3
    assert spared == set(own)
    assert decayed


def test_a_native_step_computes_what_torch_does() -> None:
    check_native_net(sk.QuartzNet(labels=("a", "b"), blocks=BLOCKS, block="rglru:heads=4"))


@pytest.mark.parametrize("name", ["rglru", "residuals/rglru"])
def test_a_model_of_before_it_moved_loads(name: str, tmp_path: Path) -> None:
    with using(Registry({"SPEECHKIT_PLUGINS": "mixers,residuals"})):
        rows = (*BLOCKS[:2], Block(channels=20, kernel=3, residual=True, block=f"{name}:heads=4"))
        model = sk.build(sk.QuartzNet(labels=("a",), blocks=rows)).eval()
        sk.save(model, tmp_path / "model")
        again = sk.load(tmp_path / "model")
        assert str(again.config.blocks[-1].block) == f"{name}:heads=4"
        with torch.inference_mode():
            assert torch.equal(again(AUDIO).scores, model(AUDIO).scores)
