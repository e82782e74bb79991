"""Recurrent convolutions reuse their weights, and stream."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from speechkit_mixers.rcl import RecurrentConv, rcl, rrcl
from torch import Tensor, nn

import speechkit as sk
from speechkit.errors import ComponentError
from speechkit.models import Net
from speechkit.nn import (
    Add,
    BatchNorm,
    BodyMaker,
    Chunk,
    DenseConv,
    DepthwiseConv,
    FrameWise,
    LookAhead,
    Pointwise,
    Serial,
    StreamLayer,
)
from speechkit.testing.native import check_native_net


def noise(channels: int = 6, frames: int = 40) -> Tensor:
    chance = torch.Generator().manual_seed(1)
    return torch.randn(2, channels, frames, generator=chance, dtype=torch.float64)


def maker(lookahead: LookAhead = 1, repeat: int = 1) -> BodyMaker:
    return BodyMaker(
        kernel=3,
        repeat=repeat,
        lookahead=lookahead,
        mixer=DepthwiseConv,
        channel=Pointwise,
        norm=BatchNorm,
        activation=lambda channels: FrameWise(nn.ReLU()),
        merge=lambda channels, index, depth: Add(),
    )


def made(block: Callable[..., StreamLayer], t: int = 2, **shape: int) -> StreamLayer:
    torch.manual_seed(0)
    layer = block(6, 8, maker(**shape), t=t).double()
    # statistics of a batch, so that the norm does something
    layer.train()(Chunk.of(noise()))
    return layer.eval()


def weights(layer: nn.Module) -> int:
    return sum(p.numel() for p in layer.parameters())


@pytest.mark.parametrize("block", [rcl, rrcl])
def test_paper_073_t_changes_no_parameter(block: Callable[..., StreamLayer]) -> None:
    states = [made(block, t).state_dict() for t in (0, 1, 5)]
    assert all(state.keys() == states[0].keys() for state in states)
    assert len({weights(made(block, t)) for t in (0, 1, 5)}) == 1


def test_paper_073_it_equals_a_loop_over_steps() -> None:
    layer, x = made(rcl, 3), noise()
    assert isinstance(layer, Serial)
    project, body = layer
    assert isinstance(body, Serial)
    (recurrent,) = body
    assert isinstance(recurrent, RecurrentConv)
    first = project(Chunk.of(x))
    y = recurrent.g(first)
    for _ in range(3):
        y = recurrent.g(Chunk(first.x + y.x, y.valid))
    torch.testing.assert_close(layer(Chunk.of(x)).x, y.x, rtol=0, atol=0)


def test_paper_073_without_steps_it_is_the_body() -> None:
    layer, x = made(rcl, 0, repeat=2), noise()
    torch.manual_seed(0)
    m = maker(repeat=2)
    plain = Serial(*(part for _ in range(2) for part in (m.layer(8, 8), m.after(8)))).double()
    values = iter(layer.state_dict().values())
    channel = next(values)
    plain.load_state_dict(dict(zip(plain.state_dict(), values, strict=True)))
    given = torch.einsum("oc,bct->bot", channel.squeeze(), x)
    expected = plain.eval()(Chunk.of(given)).x
    torch.testing.assert_close(layer(Chunk.of(x)).x, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("t", "frames"), [(0, 3), (1, 5), (2, 7)])
def test_paper_073_each_step_reads_two_frames_more(t: int, frames: int) -> None:
    g = DenseConv(2, 2, 3, lookahead=1).double()
    nn.init.ones_(g.weight)
    layer, x = RecurrentConv(g, t), noise(2).requires_grad_()
    layer(Chunk.of(x)).x[:, :, 20].sum().backward()
    assert x.grad is not None
    assert int((x.grad.abs().sum((0, 1)) > 0).sum()) == frames
    assert layer.left + layer.right + 1 == frames


def test_paper_073_the_residual_is_around_the_convolutions() -> None:
    x = noise()
    plain, summed = made(rcl), made(rrcl)
    values = dict(zip(summed.state_dict(), plain.state_dict().values(), strict=True))
    summed.load_state_dict(values)
    assert isinstance(plain, Serial)
    given = plain[0](Chunk.of(x)).x
    expected = plain(Chunk.of(x)).x + given
    torch.testing.assert_close(summed(Chunk.of(x)).x, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("block", [rcl, rrcl])
@pytest.mark.parametrize("lookahead", [0, 1])
def test_a_stream_equals_the_whole(block: Callable[..., StreamLayer], lookahead: int) -> None:
    layer = made(block, lookahead=lookahead, repeat=2)
    assert layer.delay == 2 * 3 * lookahead
    sk.testing.check_stream(layer, noise(), torch.tensor([40, 23]))


@pytest.mark.parametrize("block", ["rcl", "rrcl:t=1", "rcl:t=0"])
def test_a_native_step_computes_the_same(block: str) -> None:
    rows = (
        sk.Block(channels=24, kernel=5, stride=2),
        sk.Block(channels=24, kernel=5, repeat=2, residual=True),
        sk.Block(channels=20, kernel=3, residual=True),
    )
    check_native_net(sk.QuartzNet(labels=("a", "b"), blocks=rows, block=f"mixers/{block}"))


@pytest.mark.parametrize("block", ["rcl", "rrcl"])
def test_a_gradient_reaches_every_weight(family: Callable[..., Net], block: str) -> None:
    # of QuartzNet's five blocks of five sub-blocks the first
    config = family()
    rows = config.blocks[: 2 if isinstance(config, sk.QuartzNet) else 6]
    config = replace(config, size="custom", blocks=rows)
    model = sk.build(replace(config, block=block)).train()
    audio = 0.1 * torch.randn(2, 3200, generator=torch.Generator().manual_seed(0))
    model(audio, torch.tensor([3200, 2000])).scores.square().mean().backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, f"no gradient reaches {name}"
        assert weight.grad.isfinite().all(), name
    repeats = sum(row.residual * row.copies * row.repeat for row in rows)
    assert sum(isinstance(m, RecurrentConv) for m in model.modules()) == repeats


def test_what_is_no_recurrence_is_refused() -> None:
    with pytest.raises(ComponentError, match="t=-1"):
        RecurrentConv(Pointwise(2, 2), -1)
    with pytest.raises(ComponentError, match="stride 2"):
        RecurrentConv(DenseConv(2, 2, 3, stride=2))
