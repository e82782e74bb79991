"""The convolution of learned functions against a loop, and the block that has one beside it."""

import math

import pytest
import torch
import torch.nn.functional as F
from speechkit_kan.conv import ChebConv, KANConv, RadialConv, SplineConv
from speechkit_kan.rkan import BASES, rkan
from torch import Tensor, nn

from speechkit.errors import ComponentError
from speechkit.nn import (
    Add,
    BatchNorm,
    BodyMaker,
    Chunk,
    DepthwiseConv,
    FrameWise,
    Pointwise,
    Residual,
    StreamLayer,
    plain_block,
)
from speechkit.testing import assert_close, check_stream


def body_maker(lookahead: int = 1) -> BodyMaker:
    return BodyMaker(
        kernel=3,
        lookahead=lookahead,
        mixer=DepthwiseConv,
        channel=Pointwise,
        norm=BatchNorm,
        activation=lambda channels: FrameWise(nn.ReLU()),
        merge=lambda channels, index, depth: Add(),
    )


def frames(channels: int = 8, count: int = 30) -> Tensor:
    chance = torch.Generator().manual_seed(0)
    return torch.randn(2, count, channels, generator=chance).double().transpose(1, 2)


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("shared", [True, False])
def test_paper_065_it_is_the_explicit_loop(shared: bool) -> None:
    torch.manual_seed(0)
    conv = ChebConv(2, 3, stride=2, dilation=2, lookahead=1, degree=3, shared=shared).double()
    nn.init.normal_(conv.scale)
    x = frames(2, 11)[:1]
    y = conv(Chunk.of(x)).x
    for channel in range(2):
        row = 0 if shared else channel
        for out in range(y.shape[2]):
            total = 0.0
            for k in range(3):
                at = 2 * out - conv.left + 2 * k
                value = x[0, channel, at].item() if 0 <= at < 11 else 0.0
                t = math.tanh(value)
                terms = 1, t, 2 * t * t - 1, 4 * t**3 - 3 * t
                rest = sum(
                    c * term
                    for c, term in zip(conv.coefficients[row, k].tolist(), terms, strict=True)
                )
                total += conv.weight[row, 0, k].item() * value + conv.scale[row, k].item() * rest
            assert abs(total - y[0, channel, out].item()) < 1e-12


def test_paper_065_so_many_parameters() -> None:
    assert size(ChebConv(16, 3, degree=3, shared=True)) == 3 + 3 + 3 * (3 + 1)
    assert size(ChebConv(16, 3, degree=3)) == 16 * (3 + 3 + 3 * (3 + 1))


def test_without_coefficients_it_is_a_depthwise_convolution() -> None:
    conv, plain = ChebConv(8, 5).double(), DepthwiseConv(8, 5).double()
    nn.init.zeros_(conv.coefficients)
    plain.weight = conv.weight
    c = Chunk.of(frames())
    assert_close("depthwise", plain(c).x, conv(c).x, 1e-12)


@pytest.mark.parametrize("shape", [(3, 1, 1, "same"), (5, 2, 1, 2), (3, 1, 4, 0), (4, 3, 2, 5)])
@pytest.mark.parametrize("shared", [True, False])
def test_paper_065_steps_give_what_the_whole_gives(
    shape: tuple[int, int, int, int], shared: bool
) -> None:
    torch.manual_seed(0)
    conv = ChebConv(8, *shape, shared=shared).double()
    check_stream(conv, frames(), torch.tensor([30, 13]))


def test_paper_065_gradients_reach_the_coefficients() -> None:
    conv = ChebConv(8, 3, shared=True).double()
    conv(Chunk.of(frames())).x.square().sum().backward()
    for parameter in conv.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().min() > 0


@pytest.mark.parametrize("lookahead", [0, 1])
def test_paper_065_with_zero_gamma_it_starts_as_the_plain_block(lookahead: int) -> None:
    torch.manual_seed(0)
    plain = plain_block(8, 6, body_maker(lookahead)).double().eval()
    torch.manual_seed(0)
    block = rkan(8, 6, body_maker(lookahead), zero_gamma=True).double().eval()
    c = Chunk.of(frames())
    assert torch.equal(block(c).x, plain(c).x)
    assert block.delay == plain.delay
    torch.nn.init.ones_(branch(block).norm.weight)
    assert not torch.allclose(block(c).x, plain(c).x)


def test_paper_065_what_it_adds() -> None:
    added = size(rkan(8, 6, body_maker(), reduce=4)) - size(plain_block(8, 6, body_maker()))
    assert added == 8 * 2 + 2 * 6 + (3 + 3 + 3 * 4) + 2 * 6


def test_paper_065_a_gate_multiplies() -> None:
    torch.manual_seed(0)
    plain = plain_block(8, 6, body_maker()).double().eval()
    torch.manual_seed(0)
    block = rkan(8, 6, body_maker(), merge="mult_sigmoid", zero_gamma=True).double().eval()
    c = Chunk.of(frames())
    assert_close("1 + sigmoid(0)", 1.5 * plain(c).x, block(c).x, 1e-12)


def test_paper_065_the_first_blocks_may_be_left_plain() -> None:
    kinds = [isinstance(rkan(8, 8, body_maker(), i, 3, skip=2), Residual) for i in range(3)]
    assert kinds == [False, False, True]


@pytest.mark.parametrize(("make", "functions"), [(SplineConv, 5 + 3), (RadialConv, 8)])
def test_paper_065_the_other_forms(make: type[KANConv], functions: int) -> None:
    torch.manual_seed(0)
    conv = make(2, 3, stride=2, dilation=2, lookahead=1).double()
    nn.init.normal_(conv.scale)
    x = frames(2, 11)
    y = conv(Chunk.of(x)).x
    # four frames of zeros stand before the first, one behind the last
    given = F.pad(x.transpose(1, 2), (0, 0, conv.left, 3))
    terms = torch.cat([F.silu(given)[..., None], conv.functions(given)], 3)
    rest = conv.scale[..., None] * conv.coefficients
    weights = torch.cat([conv.weight.transpose(1, 2), rest], 2)
    taps = torch.stack([terms[:, 2 * k : 2 * k + 11 : 2] for k in range(3)], 3)
    assert_close("taps", torch.einsum("btckn,ckn->bct", taps, weights), y, 1e-12)
    assert size(conv) == 2 * (3 + 3 + 3 * functions)
    check_stream(conv, frames(2), torch.tensor([30, 13]))


def test_paper_065_bells_stand_from_minus_two_to_two() -> None:
    conv = RadialConv(1, 3, grid=5).double()
    at = torch.arange(-2.0, 3).double()[:, None]
    expected = (-(at - at.T).square()).exp()
    assert_close("bells", expected, conv.functions(at[None])[0, :, 0], 1e-12)


@pytest.mark.parametrize("basis", BASES)
def test_paper_065_any_basis_in_a_block(basis: str) -> None:
    torch.manual_seed(0)
    plain = plain_block(8, 6, body_maker()).double().eval()
    torch.manual_seed(0)
    block = rkan(8, 6, body_maker(), basis=basis, zero_gamma=True).double().eval()
    c = Chunk.of(frames())
    assert torch.equal(block(c).x, plain(c).x)
    nn.init.ones_(branch(block).norm.weight)
    check_stream(block, frames(), torch.tensor([30, 13]))
    block(c).x.square().sum().backward()
    coefficients = branch(block).kan.coefficients
    assert coefficients.grad is not None
    assert coefficients.grad.any()


def test_another_merge_or_basis_is_refused() -> None:
    with pytest.raises(ComponentError, match="merge='film': give one of add, mult_sigmoid"):
        rkan(8, 6, body_maker(), merge="film")
    with pytest.raises(ComponentError, match="basis='fourier': give one of cheb, bspline, rbf"):
        rkan(8, 6, body_maker(), basis="fourier")


def branch(block: StreamLayer) -> nn.Module:
    assert isinstance(block, Residual)
    return block.shortcut
