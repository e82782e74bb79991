from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from speechkit.native.libraries import load
from speechkit.ops import batch_norm
from speechkit.ops.batch_norm import cpu
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


@dataclass(frozen=True)
class Behind:
    relu: bool
    residual: Tensor | None

    def __call__(self, y: Tensor, residual: Tensor | None) -> Tensor:
        y = y if residual is None else y + residual
        return torch.relu(y) if self.relu else y


@pytest.fixture(params=["alone", "relu", "residual", "both"])
def behind(request: pytest.FixtureRequest) -> Behind:
    """What else the op computes, and the same in torch."""
    name: str = request.param
    x = operands()[0].detach()
    added = x.flip(0) * x.sign() if name in ("residual", "both") else None
    return Behind(relu=name in ("relu", "both"), residual=added)


def test_equals_torch_where_every_row_is_valid(impl: str) -> None:
    x, valid, weight, bias = operands()
    y, mean, variance = batch_norm(x, torch.ones_like(valid), weight, bias, 1e-3, impl=impl)
    assert_close("y", torchs(x, weight, bias), y, 1e-12)
    assert_close("mean", x.mean(0), mean, 1e-12)
    assert_close("variance", x.var(0, unbiased=False), variance, 1e-12)


def test_rows_that_are_not_valid_may_hold_anything(impl: str, behind: Behind) -> None:
    x, valid, weight, bias = operands()
    poisoned, residual = (
        None if value is None else value.detach().masked_fill(~valid[:, None], torch.nan)
        for value in (x, behind.residual)
    )
    given = [
        value.requires_grad_() for value in (poisoned, weight, bias, residual) if value is not None
    ]
    y, _, _ = batch_norm(poisoned, valid, weight, bias, 1e-3, behind.relu, residual, impl)
    real = None if residual is None else residual.detach()[valid].requires_grad_()
    alone = behind(torchs(x[valid], weight, bias), real)
    assert_close("y", alone, y[valid], 1e-12)
    assert (y[~valid] == 0).all()
    dy = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(1))
    grads = torch.autograd.grad(y, given, dy)
    exact = [value for value in (x, weight, bias, real) if value is not None]
    wanted = torch.autograd.grad(alone, exact, dy[valid])
    for name, ours, theirs in zip(("dx", "dweight", "dbias"), grads, wanted, strict=False):
        assert_close(name, theirs, ours, 1e-11)
    if residual is not None:
        assert torch.equal(grads[3][valid], wanted[3])
        assert not grads[3][~valid].any()


def test_gradients_equal_finite_differences(impl: str, behind: Behind) -> None:
    x, valid, weight, bias = operands(rows=6, channels=2)
    residual = None if behind.residual is None else behind.residual[:6, :2].clone()
    given = x, weight, bias, None if residual is None else residual.requires_grad_()
    function = lambda x, w, b, r: batch_norm(  # noqa: E731
        x, valid, w, b, 1e-3, behind.relu, r, impl
    )[0]
    assert torch.autograd.gradcheck(function, given)


def test_a_large_mean_costs_no_accuracy(impl: str) -> None:
    x, valid, weight, bias = (value.detach() for value in operands(rows=3000))
    far = (x + 1000).float()
    y, _, _ = batch_norm(far, torch.ones_like(valid), weight.float(), bias.float(), 1e-3, impl=impl)
    assert_close("y", torchs(far.double(), weight, bias).float(), y, 1e-4)


def test_half_precision_sums_in_single(impl: str, behind: Behind) -> None:
    x, valid, weight, bias = (value.detach() for value in operands())
    half = x.bfloat16().requires_grad_()
    added = None if behind.residual is None else behind.residual.bfloat16()
    single = weight.float(), bias.float()
    y, mean, _ = batch_norm(half, valid, *single, 1e-3, behind.relu, added, impl)
    assert_close("mean", half.detach().double()[valid].mean(0).float(), mean, 1e-5)
    exact = half.detach().double().requires_grad_()
    real = None if added is None else added.double()[valid]
    wanted = behind(torchs(exact[valid], weight, bias), real)
    assert_close("y", wanted.float(), y[valid].float(), 1e-2)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).bfloat16().to(y.dtype)
    (dx,) = torch.autograd.grad(y, half, dy)
    (expected,) = torch.autograd.grad(wanted, exact, dy[valid].double())
    assert_close("dx", expected.float(), dx.float(), 2e-2)


def test_no_valid_row_gives_zeros(impl: str) -> None:
    x, valid, weight, bias = operands()
    y, _, variance = batch_norm(x, torch.zeros_like(valid), weight, bias, 1e-3, impl=impl)
    assert (y == 0).all()
    assert variance.isfinite().all()


def test_the_custom_op_keeps_torchs_rules(behind: Behind) -> None:
    if isinstance(reason := load(cpu.SOURCE), str):
        pytest.skip(reason)
    given = *operands(), 1e-3, behind.relu, behind.residual
    torch.library.opcheck(torch.ops.speechkit.batch_norm, given)
