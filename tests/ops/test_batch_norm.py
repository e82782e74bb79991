import torch
import torch.nn.functional as F
from torch import Tensor

from speechkit.ops import batch_norm
from speechkit.testing import assert_close


def operands(rows: int = 24, channels: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(rows, channels, dtype=torch.float64, generator=generator) * 3 + 1
    weight = torch.rand(channels, dtype=torch.float64, generator=generator) + 0.5
    bias = torch.randn(channels, dtype=torch.float64, generator=generator)
    real = (torch.rand(rows, generator=generator) < 0.7).double()
    return x.requires_grad_(), real, weight.requires_grad_(), bias.requires_grad_()


def test_equals_torch_where_every_row_is_real() -> None:
    x, real, weight, bias = operands()
    y, mean, variance = batch_norm(x, torch.ones_like(real), weight, bias, 1e-3)
    assert_close("y", F.batch_norm(x, None, None, weight, bias, True, 0.1, 1e-3), y, 1e-12)
    assert_close("mean", x.mean(0), mean, 1e-12)
    assert_close("variance", x.var(0, unbiased=False), variance, 1e-12)


def test_rows_that_are_not_real_do_not_count() -> None:
    x, real, weight, bias = operands()
    y, _, _ = batch_norm(x, real, weight, bias, 1e-3)
    chosen = x[real == 1]
    alone = F.batch_norm(chosen, None, None, weight, bias, True, 0.1, 1e-3)
    assert_close("y", alone, y[real == 1], 1e-12)


def test_gradients_equal_finite_differences() -> None:
    x, real, weight, bias = operands(rows=6, channels=2)
    function = lambda x, w, b: batch_norm(x, real, w, b, 1e-3)[0]  # noqa: E731
    assert torch.autograd.gradcheck(function, (x, weight, bias))
