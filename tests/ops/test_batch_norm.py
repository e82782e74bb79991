import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from speechkit.ops import batch_norm
from speechkit.ops.batch_norm import cpu
from speechkit.ops.native import load
from speechkit.testing import assert_close

pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.fixture(params=["cpu", "torch"])
def impl(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name == "cpu" and isinstance(reason := load(cpu.SOURCE), str):
        pytest.skip(reason)
    return name


def operands(rows: int = 75, channels: int = 21) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(rows, channels, dtype=torch.float64, generator=generator) * 3 + 1
    weight = torch.rand(channels, dtype=torch.float64, generator=generator) + 0.5
    bias = torch.randn(channels, dtype=torch.float64, generator=generator)
    valid = torch.rand(rows, generator=generator) < 0.7
    return x.requires_grad_(), valid, weight.requires_grad_(), bias.requires_grad_()


def torchs(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.batch_norm(x, None, None, weight, bias, True, 0.1, 1e-3)


def test_equals_torch_where_every_row_is_valid(impl: str) -> None:
    x, valid, weight, bias = operands()
    y, mean, variance = batch_norm(x, torch.ones_like(valid), weight, bias, 1e-3, impl)
    assert_close("y", torchs(x, weight, bias), y, 1e-12)
    assert_close("mean", x.mean(0), mean, 1e-12)
    assert_close("variance", x.var(0, unbiased=False), variance, 1e-12)


def test_rows_that_are_not_valid_may_hold_anything(impl: str) -> None:
    x, valid, weight, bias = operands()
    poisoned = x.detach().masked_fill(~valid[:, None], torch.nan).requires_grad_()
    y, _, _ = batch_norm(poisoned, valid, weight, bias, 1e-3, impl)
    alone = torchs(x[valid], weight, bias)
    assert_close("y", alone, y[valid], 1e-12)
    assert (y[~valid] == 0).all()
    dy = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(1))
    grads = torch.autograd.grad(y, (poisoned, weight, bias), dy)
    wanted = torch.autograd.grad(alone, (x, weight, bias), dy[valid])
    for name, ours, theirs in zip(("dx", "dweight", "dbias"), grads, wanted, strict=True):
        assert_close(name, theirs, ours, 1e-11)


def test_gradients_equal_finite_differences(impl: str) -> None:
    x, valid, weight, bias = operands(rows=6, channels=2)
    function = lambda x, w, b: batch_norm(x, valid, w, b, 1e-3, impl)[0]  # noqa: E731
    assert torch.autograd.gradcheck(function, (x, weight, bias))


def test_a_large_mean_costs_no_accuracy(impl: str) -> None:
    x, valid, weight, bias = (value.detach() for value in operands(rows=3000))
    far = (x + 1000).float()
    y, _, _ = batch_norm(far, torch.ones_like(valid), weight.float(), bias.float(), 1e-3, impl)
    assert_close("y", torchs(far.double(), weight, bias).float(), y, 1e-4)


def test_half_precision_sums_in_single(impl: str) -> None:
    x, valid, weight, bias = (value.detach() for value in operands())
    half = x.bfloat16()
    y, mean, _ = batch_norm(half, valid, weight.float(), bias.float(), 1e-3, impl)
    assert_close("mean", half.double()[valid].mean(0).float(), mean, 1e-5)
    assert_close("y", torchs(half.double()[valid], weight, bias).float(), y[valid].float(), 1e-2)


def test_no_valid_row_gives_zeros(impl: str) -> None:
    x, valid, weight, bias = operands()
    y, _, variance = batch_norm(x, torch.zeros_like(valid), weight, bias, 1e-3, impl)
    assert (y == 0).all()
    assert variance.isfinite().all()


def test_the_custom_op_keeps_torchs_rules() -> None:
    if isinstance(reason := load(cpu.SOURCE), str):
        pytest.skip(reason)
    torch.library.opcheck(torch.ops.speechkit.batch_norm, (*operands(), 1e-3))
