"""AILA, parallel-shallow and layer mixing."""

import math
from collections.abc import Callable
from itertools import pairwise, product

import pytest
import torch
from speechkit_residuals.aila import AttentionStack, LayerAttention, aila_attn, aila_linear
from speechkit_residuals.linked import Linked
from speechkit_residuals.preact import preact
from speechkit_residuals.shallow import LayerMix, SecondOrder, layer_mix, parallel_shallow, shallow
from torch import Tensor, nn

import speechkit as sk
from speechkit.errors import ComponentError
from speechkit.models import Block, Net
from speechkit.nn import (
    BatchNorm,
    BodyMaker,
    Chunk,
    Pointwise,
    Residual,
    Serial,
    StreamLayer,
    plain_block,
)
from speechkit.testing import check_stream

Maker = Callable[..., BodyMaker]
Frames = Callable[..., Tensor]


def run(layer: StreamLayer, x: Tensor) -> Tensor:
    y: Chunk = layer(Chunk.of(x))
    return y.x


def plain_blocks(maker: Maker, count: int = 4) -> list[StreamLayer]:
    torch.manual_seed(0)
    return [plain_block(8, 8, maker(), index, count).double().eval() for index in range(count)]


def residual_blocks(maker: Maker, count: int = 4) -> list[StreamLayer]:
    torch.manual_seed(0)
    blocks = [preact(8, 8, maker(), index, 99).double() for index in range(count)]
    return [block.eval() for block in blocks]


@pytest.mark.parametrize("stack", [aila_linear, aila_attn, layer_mix])
def test_papers_020_099_it_begins_as_the_plain_stack(
    maker: Maker, frames: Frames, stack: Callable[..., StreamLayer]
) -> None:
    blocks = plain_blocks(maker)
    linked = stack(blocks).double().eval()
    assert torch.equal(run(linked, frames()), run(Serial(*blocks), frames()))


def test_paper_020_parameters() -> None:
    def size(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    for count in (4, 8):
        blocks: list[StreamLayer] = [Pointwise(16, 16) for _ in range(count)]
        own = size(Serial(*blocks))
        pairs = (count - 1) * (count - 2) // 2
        assert size(aila_linear(blocks)) - own == pairs * 16 * 16
        assert size(aila_attn(blocks)) - own == (count - 2) * 4 * 16 * 4


def test_paper_020_weights_of_layers_sum_to_one(maker: Maker, frames: Frames) -> None:
    stack = aila_attn(plain_blocks(maker), heads=2).double()
    history = [Chunk.of(frames(seed=seed)) for seed in range(3)]
    attention = stack.attentions["3"]
    weights = attention.weights(stack.attended_states(3, history))  # type: ignore[operator]
    assert weights.shape == (2, 12, 3, 2)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(2), torch.ones(2, 12, 2, dtype=torch.float64))


@pytest.mark.parametrize("heads", [1, 2])
def test_paper_020_attention_is_its_formula(maker: Maker, frames: Frames, heads: int) -> None:
    stack = aila_attn(plain_blocks(maker), dim=6, heads=heads).double()
    attention = stack.attentions["3"]
    assert isinstance(attention, LayerAttention)
    nn.init.normal_(attention.out.weight, generator=torch.Generator().manual_seed(0))
    h = [frames(count=3, seed=seed) for seed in range(3)]
    d, own = 6 // heads, range(6 // heads)
    expected = h[2].clone()
    for row, t in product(range(2), range(3)):
        queries, keys, values = (
            [(layer.weight @ x[row, :, t]).tolist() for x in h]
            for layer in (attention.query, attention.key, attention.value)
        )
        mixed = []
        for first in range(0, 6, d):
            dots = [sum(queries[2][first + c] * key[first + c] for c in own) for key in keys]
            grown = [math.exp(dot / math.sqrt(d)) for dot in dots]
            shares = [one / sum(grown) for one in grown]
            for c in own:
                mixed.append(sum(a * v[first + c] for a, v in zip(shares, values, strict=True)))
        added = attention.out.weight @ torch.tensor(mixed, dtype=torch.float64)
        expected[row, :, t] += added.detach()
    got = stack.into(3, [Chunk.of(x) for x in h])
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_paper_020_linear_links_are_their_formula(maker: Maker, frames: Frames) -> None:
    blocks = plain_blocks(maker)
    stack = aila_linear(blocks).double().eval()
    chance = torch.Generator().manual_seed(0)
    for link in stack.links.values():
        nn.init.normal_(link, std=0.1, generator=chance)
    h0 = run(blocks[0], frames())
    h1 = run(blocks[1], h0)
    h2 = run(blocks[2], h1 + torch.einsum("oi,bit->bot", stack.links["0_to_2"], h0))
    earlier = zip(("0_to_3", "1_to_3"), (h0, h1), strict=True)
    x = h2 + sum(torch.einsum("oi,bit->bot", stack.links[name], h) for name, h in earlier)
    torch.testing.assert_close(run(stack, frames()), run(blocks[3], x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stack", [aila_linear, aila_attn])
def test_paper_020_every_link_learns(
    maker: Maker, frames: Frames, stack: Callable[..., StreamLayer]
) -> None:
    linked = stack(plain_blocks(maker)).double().train()
    own = {name for name, _ in linked.named_parameters() if not name[0].isdigit()}
    for _ in range(2):
        linked.zero_grad()
        run(linked, frames()).square().sum().backward()
        with torch.no_grad():
            for name, parameter in linked.named_parameters():
                if name in own and parameter.grad is not None:
                    parameter -= 0.1 * parameter.grad
    for name, parameter in linked.named_parameters():
        if name in own:
            assert parameter.grad is not None
            assert parameter.grad.any(), name


@pytest.mark.parametrize("stack", [aila_linear, aila_attn])
def test_paper_020_after_a_step_every_earlier_block_learns_through_its_link(
    maker: Maker, frames: Frames, stack: Callable[..., Linked]
) -> None:
    linked = stack(plain_blocks(maker)).double().train()

    def reached() -> list[bool]:
        # the outputs of blocks 0, 1 and 2, of which block 3 reads the last one in the plain stack
        outputs = [frames(seed=seed).requires_grad_() for seed in range(3)]
        into = linked.into(3, [Chunk.of(x) for x in outputs])
        gradients = torch.autograd.grad(into.square().sum(), outputs, allow_unused=True)
        return [gradient is not None and bool(gradient.any()) for gradient in gradients]

    assert reached() == [False, False, True]
    run(linked, frames()).square().sum().backward()
    torch.optim.SGD(linked.parameters(), lr=0.1).step()
    assert reached() == [True, True, True]


def test_paper_020_attention_needs_equal_widths() -> None:
    stack = AttentionStack(
        [Pointwise(4, 8), Pointwise(8, 6), Pointwise(6, 8), Pointwise(8, 8)], 0, 1
    )
    assert stack.sources == {3: [0, 2]}
    with pytest.raises(ComponentError, match="dim=3 does not divide by heads=2"):
        aila_attn([Pointwise(8, 8)] * 3, dim=3, heads=2)


def test_paper_036_blocks_without_an_identity_shortcut_are_refused(
    family: Callable[..., Net],
) -> None:
    for block in ("plain", "identity:shortcut=C", "preact:shortcut=scale"):
        with pytest.raises(ComponentError, match="no two blocks in a row have one width"):
            sk.build(family(block=block, stack="parallel_shallow"))
    # SiLU of SiLU is something else, so that the input would not pass
    with pytest.raises(ComponentError, match="no two blocks in a row have one width"):
        sk.build(family(block="identity", activation="silu", stack="parallel_shallow"))


@torch.no_grad()
def test_paper_036_the_first_block_of_a_built_net_joins(family: Callable[..., Net]) -> None:
    """The error is of the second order, whether its shortcut is the input or a projection."""
    deep = sk.build(family(block="preact", lookahead=1)).double().eval()
    lasts = [
        [m for m in total.body.modules() if isinstance(m, Pointwise)][-1]
        for total in deep.encoder.modules()
        if isinstance(total, Residual)
    ]
    assert len(lasts) == sum(row.residual * row.copies for row in deep.config.blocks)
    x = torch.randn(2, 20, deep.stem.channels_out(0), generator=torch.Generator().manual_seed(0))
    x = x.double().transpose(1, 2).relu()
    # norms with the statistics of the data, so that the bodies do not fade out
    for module in deep.modules():
        if isinstance(module, BatchNorm):
            module.momentum = 1.0
    run(deep.encoder.train(), x)
    deep.eval()
    errors = []
    for factor in (2**-5, 0.5):
        for last in lasts:
            last.weight.mul_(factor)
        errors.append(float((run(shallow(deep).encoder, x) - run(deep.encoder, x)).abs().max()))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    # the look-ahead of a run is that of one block
    ahead = [block.delay for block in deep.encoder]
    runs = [ahead[:2], ahead[2:5]] if isinstance(deep.config, sk.QuartzNet) else [ahead[:3]]
    saved = sum(ahead) - shallow(deep).encoder.delay
    assert saved == sum(sum(run) - max(run) for run in runs) > 0


@pytest.mark.parametrize(("order", "ratio"), [(1, 4), (2, 8)])
def test_paper_036_error_falls_with_a_power_of_the_branches(
    maker: Maker, frames: Frames, order: int, ratio: int
) -> None:
    first, *blocks = residual_blocks(maker)
    before = [p.clone() for block in blocks for n, p in block.named_parameters() if "channel" in n]
    errors = []
    for power in range(3, 8):
        weights = [p for block in blocks for n, p in block.named_parameters() if "channel" in n]
        for parameter, value in zip(weights, before, strict=True):
            parameter.data.copy_(value * 2.0**-power)
        shallow_y = run(parallel_shallow([first, *blocks], order), frames())
        deep_y = run(Serial(first, *blocks), frames())
        errors.append(float((shallow_y - deep_y).abs().max().detach()))
    ratios = [a / b for a, b in pairwise(errors)]
    assert ratios[-1] == pytest.approx(ratio, rel=0.03)


@pytest.mark.parametrize(("order", "delay"), [(1, 2), (2, 3)])
def test_paper_036_one_branch_alone_is_the_chain(
    maker: Maker, frames: Frames, order: int, delay: int
) -> None:
    first, *blocks = residual_blocks(maker)
    for block in blocks[1:]:
        for name, parameter in block.named_parameters():
            if "channel" in name:
                nn.init.zeros_(parameter)
    stack, chain = parallel_shallow([first, *blocks], order), Serial(first, *blocks)
    torch.testing.assert_close(run(stack, frames()), run(chain, frames()), rtol=1e-12, atol=1e-12)
    assert sum(p.numel() for p in stack.parameters()) == sum(p.numel() for p in chain.parameters())
    # the first block, whose input the stack does not know, stays before the others
    assert (stack.delay, chain.delay) == (delay, 4)


def test_paper_036_the_second_order_of_two_blocks_is_the_chain(
    maker: Maker, frames: Frames
) -> None:
    blocks = residual_blocks(maker, 3)
    stack, chain = parallel_shallow(blocks, 2), Serial(*blocks)
    torch.testing.assert_close(run(stack, frames()), run(chain, frames()), rtol=1e-12, atol=1e-12)


def test_paper_036_the_second_order_streams(maker: Maker, frames: Frames) -> None:
    kernels = ({"lookahead": 0}, {"kernel": 5, "lookahead": 2}, {}, {"kernel": 5})
    blocks = [
        preact(8, 8, maker(**fields), index, 99).double() for index, fields in enumerate(kernels)
    ]
    stack = parallel_shallow(blocks, 2)
    run(stack, frames())
    check_stream(stack.eval(), frames(), torch.tensor([12, 5]))
    # a block that takes another's place, as those of fuse() do, is the one that is called
    (second,) = (m for m in stack.modules() if isinstance(m, SecondOrder))
    before = run(stack, frames())
    second.add_module("1", preact(8, 8, maker(), 2, 99).double().eval())
    assert not torch.equal(run(stack, frames()), before)


def test_paper_036_a_trained_model_is_converted() -> None:
    rows = (
        Block(channels=8, kernel=5, stride=2),
        Block(channels=8, kernel=5, residual=True, copies=3),
    )
    frontend = "log_mel:n_mels=16,normalize=fixed"
    config = sk.QuartzNet(labels=("a",), blocks=rows, block="preact", frontend=frontend)
    model = sk.build(config)
    made = shallow(model)
    assert str(made.config.stack) == "parallel_shallow:first=true"
    assert made.latency_s < model.latency_s
    again = sk.build(made.config)
    again.load_state_dict(made.state_dict())
    with pytest.raises(ComponentError, match="parallel_shallow:first=true; give one"):
        shallow(made)


def test_paper_099_initial_mixes() -> None:
    assert LayerMix(3, 2).weight.tolist() == [[0, 0, 1], [0, 0, 1]]
    assert LayerMix(3, 2, "gca").weight.tolist() == [[0, 0, 1], [0, 1, 0]]
    assert LayerMix(4, 1, "uniform").weight.tolist() == [[0.25] * 4]
    sources = [torch.full((1, 2, 3), float(value)) for value in (1, 2, 3)]
    first, second = LayerMix(3, 2, "gca")(sources)
    assert torch.equal(first, sources[2])
    assert torch.equal(second, sources[1])


def test_paper_099_the_weight_of_every_source_learns(maker: Maker, frames: Frames) -> None:
    stack = layer_mix(plain_blocks(maker)).double()
    run(stack, frames()).square().sum().backward()
    gradient = stack.mix.weight.grad
    assert gradient is not None
    assert (gradient != 0).all()


def test_paper_099_a_softmax_of_projected_sources(maker: Maker, frames: Frames) -> None:
    torch.manual_seed(0)
    shapes = [(8, 6), (6, 10), (10, 8)]
    blocks: list[StreamLayer] = [plain_block(*shape, maker()).double() for shape in shapes]
    stack = layer_mix(blocks, "uniform", softmax=True).double().eval()
    assert stack.mix.shares().tolist() == [pytest.approx([1 / 3] * 3)]
    stack.mix.weight.data.copy_(torch.tensor([[0.3, -1.0, 0.5]]))
    history = [run(Serial(*blocks[: count + 1]), frames()) for count in range(3)]
    projected = [run(p, h) for p, h in zip(stack.projections, history, strict=False)]  # type: ignore[arg-type]
    shares = torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64).softmax(0)
    terms = zip(shares, [*projected, history[2]], strict=True)
    torch.testing.assert_close(run(stack, frames()), sum(w * x for w, x in terms))  # type: ignore[arg-type]
    check_stream(stack, frames(), torch.tensor([12, 5]))


def test_paper_099_the_mass_moves_to_the_block_that_knows(maker: Maker, frames: Frames) -> None:
    blocks = plain_blocks(maker)
    stack = layer_mix(blocks).double().eval()
    x = frames()
    wanted = run(Serial(*blocks[:2]), x).detach()
    optimizer = torch.optim.Adam([stack.mix.weight], lr=0.05)
    for _ in range(150):
        loss = (run(stack, x) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert stack.mix.weight.abs().argmax() == 1


def test_a_wrong_parameter_is_named() -> None:
    with pytest.raises(ComponentError, match="order=3; give 1 or 2"):
        parallel_shallow([Pointwise(4, 4)], order=3)
    with pytest.raises(ComponentError, match="init='x'; give original or gca or uniform"):
        LayerMix(2, 1, "x")
    with pytest.raises(ComponentError, match="gca of 1 sources for 2 targets"):
        LayerMix(1, 2, "gca")
    with pytest.raises(
        ComponentError, match="a softmax does not start as original; give init=unif"
    ):
        LayerMix(3, softmax=True)
    with pytest.raises(ComponentError, match="one block; give at least two to mix"):
        layer_mix([Pointwise(4, 4)])
