"""Blocks of several branches, stages or scales, and links between blocks."""

from collections.abc import Callable
from math import tanh

import pytest
import torch
from speechkit_residuals.hires import HierarchicalStack, hires
from speechkit_residuals.linked import StrideMean
from speechkit_residuals.ode import SOLVERS, OdeSteps, ode, parallel
from speechkit_residuals.res2 import Scales, res2
from torch import Tensor, nn

from speechkit.errors import ComponentError
from speechkit.nn import (
    BatchNorm,
    BodyMaker,
    Chunk,
    Delay,
    DepthwiseConv,
    FrameWise,
    Pointwise,
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


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("solver", SOLVERS)
def test_paper_066_orders_of_convergence(solver: str) -> None:
    f = FrameWise(nn.Tanh())
    x = torch.full((1, 1, 1), 0.7, dtype=torch.float64)
    # d/dt sinh x = sinh x where x' = tanh x
    exact = torch.asinh(x.sinh() * torch.e)
    errors = []
    for steps in (8, 16):
        y = run(OdeSteps(f, solver, 1 / steps, steps), x)
        errors.append(float((y - exact).abs()))
    order = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}[solver]
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.15)


def test_paper_066_one_step_by_hand() -> None:
    x = 0.7
    k1 = tanh(x)
    k2 = tanh(x + k1 / 2)
    k3 = tanh(x + k2 / 2)
    k4 = tanh(x + k3)
    y = run(OdeSteps(FrameWise(nn.Tanh())), torch.full((1, 1, 1), x, dtype=torch.float64))
    assert float(y) == pytest.approx(x + (k1 + 2 * k2 + 2 * k3 + k4) / 6, abs=1e-12)


def test_paper_066_stages_share_their_parameters(maker: Maker, frames: Frames) -> None:
    sizes = {solver: size(ode(8, 8, maker(), solver=solver)) for solver in SOLVERS}
    assert len(set(sizes.values())) == 1
    assert set(ode(8, 8, maker(), steps=2).state_dict()) == set(ode(8, 8, maker()).state_dict())


def test_paper_066_euler_is_a_residual_and_two_halves_are_two_steps(
    maker: Maker, frames: Frames
) -> None:
    x = frames()
    block = ode(8, 8, maker(), solver="euler").double().eval()
    f = block.get_submodule("0")
    assert isinstance(f, StreamLayer)
    assert torch.equal(run(block, x), x + run(f, x))
    halves = ode(8, 8, maker(), solver="euler", h=0.5, steps=2).double().eval()
    f = halves.get_submodule("0")
    assert isinstance(f, StreamLayer)
    half = x + run(f, x) / 2
    torch.testing.assert_close(run(halves, x), half + run(f, half) / 2, rtol=1e-12, atol=1e-12)


def test_paper_066_look_ahead_grows_with_the_stages(maker: Maker) -> None:
    assert [ode(8, 8, maker(), solver=solver).delay for solver in SOLVERS] == [1, 2, 2, 4]


@pytest.mark.parametrize("norm", ["shared", "separate"])
def test_paper_066_parallel_is_the_sum_of_its_branches(
    maker: Maker, frames: Frames, norm: str
) -> None:
    x = frames()
    block = parallel(8, 8, maker(), norm=norm).double().eval()
    y = run(block, x)
    total = x
    at = "body.sum" if norm == "shared" else "body"
    for branch in ("body", "shortcut"):
        layer = block.get_submodule(f"{at}.{branch}")
        assert isinstance(layer, StreamLayer)
        given = run(block.get_submodule("body.norm"), x) if norm == "shared" else x  # type: ignore[arg-type]
        total = total + run(layer, given)
    torch.testing.assert_close(y, total, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("identity", "spans"), [("last", [11, 21, 31, 1]), ("first", [1, 11, 21, 31])]
)
def test_paper_080_receptive_field_of_each_group(identity: str, spans: list[int]) -> None:
    layers: list[StreamLayer] = [DepthwiseConv(2, 11) for _ in range(3)]
    scales = Scales(layers, 2, identity).double()
    for layer in layers:
        nn.init.ones_(layer.weight)  # type: ignore[arg-type]
    x = torch.zeros(1, 8, 81, dtype=torch.float64)
    x[:, :, 40] = 1
    reached = (run(scales, x) != 0).sum(2)[0]
    assert reached[::2].tolist() == spans


def test_paper_080_one_group_passes_as_it_is(maker: Maker, frames: Frames) -> None:
    x = frames()
    for identity, group in (("last", slice(6, 8)), ("first", slice(0, 2))):
        scales = Scales([maker().layer(2, 2) for _ in range(3)], 2, identity).double()
        assert torch.equal(run(scales, x)[:, group], x[:, group])


def test_paper_080_parameters(maker: Maker) -> None:
    one = size(maker().layer(2, 2))
    ends = 2 * size(maker().shortcut(8, 8))
    assert size(res2(8, 8, maker(), scale=4)) == ends + 3 * one
    assert size(res2(8, 8, maker(), scale=1)) == ends + size(maker().layer(8, 8))
    with pytest.raises(ComponentError, match="8 channels are not a multiple of scale=3"):
        res2(8, 8, maker(), scale=3)


def test_paper_080_scale_one_is_a_plain_convolution(maker: Maker, frames: Frames) -> None:
    block = res2(8, 8, maker(), scale=1).double().eval()
    assert not any(isinstance(module, Scales) for module in block.modules())
    body = block.get_submodule("sum.body")
    assert isinstance(body, Serial)
    reduce, conv, widen = body
    made = run(widen, run(conv, run(reduce, frames())))
    assert [name for name, _ in conv.named_children()] == ["layer", "after"]
    torch.testing.assert_close(run(block, frames()), (frames() + made).relu())


@pytest.mark.parametrize("identity", ["last", "first"])
def test_paper_080_it_streams(maker: Maker, frames: Frames, identity: str) -> None:
    block = res2(6, 8, maker(repeat=2, dilation=2, lookahead=2), identity=identity).double()
    check_stream(block.eval(), frames(6), torch.tensor([12, 5]))


def plain_blocks(maker: Maker, count: int = 4) -> list[StreamLayer]:
    return [plain_block(8, 8, maker(), index, count).double().eval() for index in range(count)]


@pytest.mark.parametrize("side", ["output", "input"])
def test_paper_040_it_begins_as_the_plain_stack(maker: Maker, frames: Frames, side: str) -> None:
    torch.manual_seed(0)
    blocks = plain_blocks(maker)
    stack = hires(blocks, side=side).double().eval()
    assert torch.equal(run(stack, frames()), run(Serial(*blocks), frames()))
    assert set(Serial(*blocks).state_dict()) <= set(stack.state_dict())


def test_paper_040_every_link_learns(maker: Maker, frames: Frames) -> None:
    stack = hires(plain_blocks(maker)).double().train()
    run(stack, frames()).square().sum().backward()
    # gamma first, then what lies before it
    for link in stack.links.values():
        gamma = link.get_submodule("norm").weight
        assert isinstance(gamma, nn.Parameter)
        assert gamma.grad is not None
        assert gamma.grad.any()
        nn.init.ones_(gamma)
    run(stack, frames()).square().sum().backward()
    for link in stack.links.values():
        assert all(p.grad is not None and p.grad.any() for p in link.parameters())


def test_paper_040_parameters_of_the_links(maker: Maker) -> None:
    stack = hires(plain_blocks(maker), rank_div=4)
    assert list(stack.links) == ["0_to_2", "0_to_3", "1_to_3"]
    assert size(stack.links) == 3 * (8 * 2 + 2 * 8 + 2 * 8)


def test_paper_040_a_frame_after_a_stride_depends_on_both_frames_before_it() -> None:
    x = torch.arange(5.0)[None, None]
    y = StrideMean(2)(Chunk.of(x))
    assert y.x.flatten().tolist() == [0.5, 2.5, 4.0]
    assert y.valid.all()
    ragged = StrideMean(2)(Chunk.of(x, torch.tensor([3])))
    assert ragged.x[0, 0, :2].tolist() == [0.5, 2.0]
    assert ragged.valid.tolist() == [[True, True, False]]


def test_linked_blocks_with_strides_stream(frames: Frames) -> None:
    def block(stride: int, lookahead: int) -> StreamLayer:
        conv = DepthwiseConv(8, 5, stride, lookahead=lookahead)
        return Serial(conv=conv, channel=Pointwise(8, 8), norm=BatchNorm(8))

    blocks = [block(1, 1), block(2, 3), block(1, 2), block(2, 1), block(1, 0)]
    stack = HierarchicalStack(blocks, 2, "output").double()
    for link in stack.links.values():
        nn.init.normal_(link.get_submodule("norm").weight)  # type: ignore[arg-type]
    plain = Serial(*blocks)
    assert (stack.delay, stack.stride) == (plain.delay, plain.stride)
    check_stream(stack.eval(), frames(count=41), torch.tensor([41, 22]))


def test_a_stack_that_misaligns_is_caught_and_named(maker: Maker, frames: Frames) -> None:
    stack = hires(plain_blocks(maker)).double().eval()
    for link in stack.links.values():
        nn.init.ones_(link.get_submodule("norm").weight)  # type: ignore[arg-type]
    check_stream(stack, frames())
    stack.carries = tuple(Delay(0) for _ in stack.carries)
    with pytest.raises(AssertionError, match="HierarchicalStack in chunks of"):
        check_stream(stack, frames())
