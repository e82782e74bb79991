"""Every shape that is easy to get wrong, against the reference."""

import pytest
import torch
from torch import Tensor

from speechkit.errors import ConfigError
from speechkit.native.libraries import load
from speechkit.ops import depthwise_conv, use_impl
from speechkit.ops.depthwise_conv import cpu, numba, reference
from speechkit.testing import assert_close

pytestmark = pytest.mark.usefixtures("poisoned_memory")

# batch, channels, frames, taps, stride, dilation
SHAPES = [
    (1, 1, 1, 1, 1, 1),
    (2, 8, 40, 5, 1, 1),
    (2, 3, 33, 33, 1, 1),
    (3, 5, 64, 1, 1, 1),
    (2, 4, 30, 5, 2, 1),
    (2, 4, 31, 5, 2, 1),
    (2, 4, 31, 4, 3, 1),
    (1, 3, 41, 7, 1, 2),
    (2, 3, 40, 7, 1, 2),
    (2, 4, 31, 4, 1, 3),
    (2, 4, 31, 4, 2, 2),
    (1, 7, 87, 29, 1, 2),
    (2, 35, 700, 33, 1, 1),
    (1, 64, 90, 87, 1, 1),
    (1, 16, 900, 11, 2, 1),
    (1, 20, 300, 87, 1, 2),
]
IMPLEMENTATIONS = ["cpu", "numba", "torch"]


def operands(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    batch, channels, frames, taps, _, _ = shape
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, frames, channels, dtype=torch.float64, generator=generator)
    weight = torch.randn(channels, 1, taps, dtype=torch.float64, generator=generator)
    return x.transpose(1, 2).requires_grad_(), weight.requires_grad_()


@pytest.fixture(params=IMPLEMENTATIONS)
def impl(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name == "cpu" and isinstance(reason := load(cpu.SOURCE), str):
        pytest.skip(reason)
    if name == "numba" and not numba.INSTALLED:
        pytest.skip("numba is not installed")
    return name


def valid(x: Tensor) -> Tensor:
    """A ragged batch: each row ends one frame earlier, and has a hole."""
    frames = torch.arange(x.shape[2])
    ends = x.shape[2] - torch.arange(len(x))
    return (frames < ends[:, None]) & (frames != 2)


@pytest.mark.parametrize("padding", [(0, 0), (3, 0), (2, 5)])
@pytest.mark.parametrize("shape", SHAPES)
def test_output_and_gradients_equal_the_reference(
    impl: str, shape: tuple[int, ...], padding: tuple[int, int]
) -> None:
    x, weight = operands(shape)
    *_, stride, dilation = shape
    around = padding, valid(x)
    y = depthwise_conv(x, weight, stride, dilation, *around, impl)
    expected = reference.depthwise_conv(x, weight, stride, dilation, *around)
    dy = torch.randn(
        expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )
    assert_close("y", expected, y, 1e-13)
    grads = torch.autograd.grad(y, (x, weight), dy)
    wanted = torch.autograd.grad(expected, (x, weight), dy)
    for name, ours, theirs in zip(("dx", "dw"), grads, wanted, strict=True):
        assert_close(name, theirs, ours, 1e-13)


@pytest.mark.parametrize("shape", SHAPES)
def test_single_precision_stays_channels_last(impl: str, shape: tuple[int, ...]) -> None:
    x, weight = (value.detach().float() for value in operands(shape))
    *_, stride, dilation = shape
    y = depthwise_conv(x, weight, stride, dilation, impl=impl)
    expected = depthwise_conv(x.double(), weight.double(), stride, dilation, impl="reference")
    assert_close("y", expected.float(), y, 1e-6)
    assert y.shape[1] == 1 or y.shape[2] == 1 or y.stride(1) == 1


def test_gradients_of_only_what_asks_for_one(impl: str) -> None:
    x, weight = operands((2, 3, 20, 5, 1, 1))
    frozen = weight.detach()
    (dx,) = torch.autograd.grad(depthwise_conv(x, frozen, impl=impl).sum(), x)
    assert dx.shape == x.shape
    (dw,) = torch.autograd.grad(depthwise_conv(x.detach(), weight, impl=impl).sum(), weight)
    assert dw.shape == weight.shape


def test_nothing_beyond_the_rows_is_read_or_written(impl: str) -> None:
    batch, channels, frames, taps = 2, 19, 50, 7
    x = torch.full((batch, frames + 2, channels), torch.nan)
    inner = x[:, 1:-1]
    inner.copy_(torch.randn(inner.shape, generator=torch.Generator().manual_seed(3)))
    weight = torch.randn(channels, 1, taps, generator=torch.Generator().manual_seed(4))
    y = depthwise_conv(inner.transpose(1, 2), weight, impl=impl)
    expected = depthwise_conv(inner.transpose(1, 2), weight, impl="reference")
    assert_close("y", expected, y, 1e-6)


def test_frames_that_are_not_valid_may_hold_anything(impl: str) -> None:
    x, weight = operands((3, 20, 40, 7, 1, 1))
    given, clean = valid(x), torch.where(valid(x)[:, None], x.detach(), 0)
    poisoned = x.detach().masked_fill(~given[:, None], torch.nan).requires_grad_()
    y = depthwise_conv(poisoned, weight, padding=(3, 3), valid=given, impl=impl)
    expected = depthwise_conv(clean, weight, padding=(3, 3), impl="reference")
    assert_close("y", expected, y, 1e-13)
    dx, dw = torch.autograd.grad(y.sum(), (poisoned, weight))
    assert dw.isfinite().all()
    assert (dx[~given[:, None].expand_as(dx)] == 0).all()


def test_half_precision_is_rounded_once(impl: str) -> None:
    x, weight = operands((2, 35, 90, 33, 1, 1))
    half = x.detach().bfloat16().requires_grad_()
    y = depthwise_conv(half, weight.float(), padding=(16, 16), impl=impl)
    expected = depthwise_conv(half.double(), weight, padding=(16, 16), impl="reference")
    assert y.dtype == torch.bfloat16
    assert_close("y", expected.float(), y.float(), 1e-2)
    (dx,) = torch.autograd.grad(y.float().sum(), half)
    assert dx.dtype == torch.bfloat16


def test_nan_stays_in_its_window_and_channel(impl: str) -> None:
    x = torch.zeros(1, 40, 18)
    x[0, 20, 3] = torch.nan
    weight = torch.ones(18, 1, 5)
    y = depthwise_conv(x.transpose(1, 2), weight, impl=impl)
    wrong = y.isnan().nonzero().tolist()
    assert wrong == [[0, 3, frame] for frame in range(16, 21)]


def test_the_custom_op_keeps_torchs_rules() -> None:
    if isinstance(reason := load(cpu.SOURCE), str):
        pytest.skip(reason)
    x, weight = operands((2, 5, 30, 5, 2, 1))
    for row in (None, valid(x)):
        torch.library.opcheck(torch.ops.speechkit.depthwise_conv, (x, weight, row, 2, 1, 3, 4))


def test_an_implementation_can_be_asked_for() -> None:
    x, weight = (value.detach().half() for value in operands((1, 4, 20, 5, 1, 1)))
    with pytest.raises(ConfigError, match=r"float64 and bfloat16, not torch\.float16"):
        depthwise_conv(x, weight, impl="cpu")
    with pytest.raises(ConfigError, match="Did you mean 'torch'"), use_impl("trch"):
        depthwise_conv(x, weight)
    with use_impl("reference"):
        expected = depthwise_conv(x, weight)
    assert_close("auto", expected.float(), depthwise_conv(x, weight).float(), 2e-2)
