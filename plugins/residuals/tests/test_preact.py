"""Pre-activation blocks with their ablations, wide blocks, and identity options."""

from collections.abc import Callable

import pytest
import torch
from speechkit_residuals.identity import identity
from speechkit_residuals.preact import PLACEMENTS, SHORTCUTS, preact, wide, wide_blocks
from torch import Tensor, nn

import speechkit as sk
from speechkit.errors import ComponentError
from speechkit.nn import BodyMaker, Chunk, DepthwiseConv, Pointwise, Serial, StreamLayer
from speechkit.testing import check_stream

Maker = Callable[..., BodyMaker]
Frames = Callable[..., Tensor]


def run(layer: StreamLayer, x: Tensor) -> Tensor:
    y: Chunk = layer(Chunk.of(x))
    return y.x


def silence(layer: StreamLayer) -> None:
    """Makes every 1×1 layer of a branch give zeros."""
    for module in layer.modules():
        if isinstance(module, Pointwise):
            nn.init.zeros_(module.weight)


def test_paper_027_without_a_branch_the_block_is_the_identity(maker: Maker, frames: Frames) -> None:
    x = frames()
    block = preact(8, 8, maker(repeat=2), 0, 2).double()
    silence(block)
    assert torch.equal(run(block, x), x)
    original = preact(8, 8, maker(repeat=2), 0, 2, placement="original").double()
    silence(original)
    assert torch.equal(run(original, x), x.relu())


def test_paper_027_the_sum_is_of_all_branches(maker: Maker, frames: Frames) -> None:
    blocks = [preact(8, 8, maker(), index, 9).double().eval() for index in range(3)]
    x = x0 = frames()
    branches = 0
    for block in blocks:
        y = run(block, x)
        branches, x = branches + (y - x), y
    torch.testing.assert_close(x, x0 + branches, rtol=1e-12, atol=1e-12)


def test_paper_027_gradient_through_a_hundred_blocks(maker: Maker, frames: Frames) -> None:
    for shortcut, expected in (("identity", 1.0), ("scale", 2.0**-100)):
        block = preact(8, 8, maker(), 0, 2, shortcut=shortcut).double()
        silence(block)
        x = frames().requires_grad_()
        y = x
        for _ in range(100):
            y = run(block, y)
        (gradient,) = torch.autograd.grad(y.sum(), x)
        assert torch.equal(gradient, torch.full_like(gradient, expected))


def test_paper_027_the_net_ends_with_norm_and_activation(maker: Maker, frames: Frames) -> None:
    last = preact(8, 8, maker(), 1, 2)
    assert isinstance(last, Serial)
    assert "last.norm" in dict(last.named_modules())
    assert (run(last.double(), frames()) >= 0).all()
    assert "last.norm" not in dict(preact(8, 8, maker(), 0, 2).named_modules())


def test_paper_027_shape_changes_share_the_first_norm(maker: Maker) -> None:
    block = dict(preact(6, 8, maker(), 0, 2).named_children())
    assert list(block) == ["first", "sum"]


@pytest.mark.parametrize("shortcut", SHORTCUTS)
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_paper_027_every_ablation_streams(
    maker: Maker, frames: Frames, shortcut: str, placement: str
) -> None:
    for c_in in (6, 8):
        block = preact(c_in, 8, maker(repeat=2), 1, 2, shortcut, placement).double()
        run(block.train(), frames(c_in))
        check_stream(block.eval(), frames(c_in), torch.tensor([12, 5]), chunks=(3,))


def test_paper_027_gates_begin_open(maker: Maker, frames: Frames) -> None:
    x = frames()
    block = preact(8, 8, maker(), 0, 2, shortcut="exclusive_gate").double()
    silence(block)
    assert (run(block, x) - x).abs().max() < 0.05 * x.abs().max()


def test_paper_038_dropout_of_everything_leaves_the_shortcut(maker: Maker, frames: Frames) -> None:
    x = frames()
    block = wide(8, 8, maker(), 0, 2, dropout=1.0).double().train()
    assert torch.equal(run(block, x), x)


def test_paper_038_without_dropout_it_is_preact(maker: Maker, frames: Frames) -> None:
    x = frames()
    one = wide(8, 8, maker(), 0, 2, factor=1, dropout=0).double()
    other = preact(8, 8, maker(repeat=2), 0, 2).double()
    other.load_state_dict(one.state_dict())
    assert torch.equal(run(one, x), run(other, x))


def test_paper_038_factor_multiplies_what_lies_within(maker: Maker) -> None:
    def of(kind: str, factor: float) -> int:
        weights = wide(8, 8, maker(), 0, 2, factor=factor).named_parameters()
        return sum(weight.numel() for name, weight in weights if f"{kind}.weight" in name)

    assert of("channel", 2) == 2 * of("channel", 1) == 2 * 2 * 8 * 8
    assert of("mixer", 2) == 8 * 3 + 16 * 3


def test_paper_038_a_widened_net() -> None:
    for factor in (1, 2):
        stem, *groups = wide_blocks(16, factor)
        assert (stem.channels, stem.residual) == (16, False)
        assert [(g.channels, g.copies) for g in groups] == [
            (16 * factor * 2**i, 2) for i in (0, 1, 2)
        ]

    def weights(factor: int, kind: type[Pointwise] | type[DepthwiseConv]) -> int:
        rows = wide_blocks(10, factor)
        model = sk.build(sk.QuartzNet(labels=("a",), blocks=rows, block="wide"))
        # the first block reads the stem, which is not widened
        _, *blocks = model.encoder.children()
        layers = (m for block in blocks for m in block.modules() if isinstance(m, kind))
        return sum(layer.weight.numel() for layer in layers)

    assert weights(2, Pointwise) == 4 * weights(1, Pointwise) > 0
    assert weights(2, DepthwiseConv) == 2 * weights(1, DepthwiseConv) > 0
    with pytest.raises(ComponentError, match=r"depth=15: a wide net has 6 n \+ 4 layers"):
        wide_blocks(15, 2)


def test_paper_059_without_a_body_the_block_is_the_activated_shortcut(
    maker: Maker, frames: Frames
) -> None:
    x = frames()
    block = identity(8, 8, maker(), zero_gamma=True).double()
    assert torch.equal(run(block, x), x.relu())
    linear = identity(8, 8, maker(), zero_gamma=True, post_act=False).double()
    assert torch.equal(run(linear, x), x)
    padded = identity(6, 8, maker(), shortcut="A", zero_gamma=True, post_act=False).double()
    y = run(padded, frames(6))
    assert torch.equal(y[:, :6], frames(6))
    assert not y[:, 6:].any()


def test_paper_059_parameters_of_the_options(maker: Maker) -> None:
    def size(c_in: int, option: str) -> int:
        block = identity(c_in, 8, maker(), shortcut=option)
        return sum(parameter.numel() for parameter in block.parameters())

    for c_in in (6, 8):
        assert size(c_in, "A") == sum(p.numel() for p in maker()(c_in, 8).parameters())
    assert size(8, "A") == size(8, "B")
    assert size(6, "B") - size(6, "A") == 6 * 8 + 2 * 8
    assert size(8, "C") - size(8, "A") == 8 * 8 + 2 * 8


def test_paper_059_gradients_reach_the_input_through_34_blocks(
    maker: Maker, frames: Frames
) -> None:
    torch.manual_seed(0)
    none = maker(norm=lambda channels: StreamLayer())
    blocks = [identity(8, 8, none, post_act=False).double() for _ in range(34)]
    plain = [none(8, 8).double() for _ in range(34)]
    norms = []
    for row in (blocks, plain):
        for layer in row:
            for parameter in layer.parameters():
                parameter.data.mul_(0.1)
        x = frames().requires_grad_()
        (gradient,) = torch.autograd.grad(run(Serial(*row), x).sum(), x)
        norms.append(float(gradient.square().mean().sqrt()))
    assert 0.3 < norms[0] < 3
    assert norms[1] < 1e-20


def test_a_wrong_parameter_is_named(maker: Maker) -> None:
    with pytest.raises(ComponentError, match="shortcut='D'; give A or B or C"):
        identity(8, 8, maker(), shortcut="D")
    with pytest.raises(ComponentError, match="needs a norm with a weight"):
        identity(8, 8, maker(norm=lambda channels: StreamLayer()), zero_gamma=True)
    with pytest.raises(ComponentError, match="choose an activation that keeps"):
        preact(8, 8, maker(widening=2))
