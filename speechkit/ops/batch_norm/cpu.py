"""The same in C++ for this processor, as torch custom ops."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechkit.ops.native import LIBRARY, call, function, sum_type, why_not

SOURCE = Path(__file__).with_name("cpu.cpp")


def unsupported(x: Tensor, weight: Tensor) -> str | None:
    """Why this implementation cannot take these tensors, or None."""
    return why_not(x, SOURCE)


LIBRARY.define(
    "batch_norm(Tensor x, Tensor valid, Tensor weight, Tensor bias, float eps, bool relu,"
    " Tensor? residual) -> (Tensor, Tensor, Tensor)"
)
LIBRARY.define(
    "batch_norm_backward(Tensor dy, Tensor x, Tensor? y, Tensor valid, Tensor weight, Tensor bias,"
    " Tensor mean, Tensor variance, float eps, bool relu, bool residual)"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)


def batch_norm(
    x: Tensor,
    valid: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    relu: bool,
    residual: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Shapes as the public function."""
    op = torch.ops.speechkit.batch_norm
    y, mean, variance = op(x, valid, weight, bias, eps, relu, residual)
    return y, mean.detach(), variance.detach()


def _forward(
    x: Tensor,
    valid: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    relu: bool,
    residual: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    kind = sum_type(x.dtype)
    rows, y = x.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
    mean, variance = (torch.empty_like(weight, dtype=kind) for _ in range(2))
    added = None if residual is None else residual.to(x.dtype).contiguous()
    given = rows, valid.contiguous(), weight.to(kind), bias.to(kind), added, y, mean, variance
    number = torch.tensor(eps, dtype=torch.float64)
    call(function(SOURCE, "batch_norm", x), *given, number, *x.shape, int(relu))
    return y, mean, variance


def _gradients(
    dy: Tensor,
    x: Tensor,
    y: Tensor | None,
    valid: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    relu: bool,
    residual: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of input, weight, bias and residual; the last is empty without one."""
    kind = sum_type(x.dtype)
    rows, d = x.contiguous(), dy.to(x.dtype).contiguous()
    dx, d_residual = torch.empty_like(rows), torch.empty_like(rows if residual else rows[:0])
    d_weight, d_bias = (torch.empty_like(weight, dtype=kind) for _ in range(2))
    given = d, rows, y, valid.contiguous(), weight.to(kind), bias.to(kind), mean, variance
    made = dx, d_residual if residual else None, d_weight, d_bias
    number = torch.tensor(eps, dtype=torch.float64)
    call(function(SOURCE, "batch_norm_backward", x), *given, *made, number, *x.shape, int(relu))
    return dx, d_weight.to(weight.dtype), d_bias.to(weight.dtype), d_residual


def _fake_forward(
    x: Tensor, valid: Tensor, weight: Tensor, *more: object
) -> tuple[Tensor, Tensor, Tensor]:
    kind = sum_type(x.dtype)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    return y, torch.empty_like(weight, dtype=kind), torch.empty_like(weight, dtype=kind)


def _fake_gradients(
    dy: Tensor,
    x: Tensor,
    y: Tensor | None,
    valid: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    relu: bool,
    residual: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    d_residual = torch.empty_like(dx if residual else dx[:0])
    return dx, torch.empty_like(weight), torch.empty_like(weight), d_residual


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, valid, weight, bias, eps, relu, residual = inputs
    y, mean, variance = output
    ctx.how = eps, relu, residual is not None
    # without a residual, computing y again is faster than reading it
    kept = y if relu and residual is not None else None
    ctx.save_for_backward(x, kept, valid, weight, bias, mean, variance)


def _backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    backward = torch.ops.speechkit.batch_norm_backward
    dx, d_weight, d_bias, d_residual = backward(dy, *ctx.saved_tensors, *ctx.how)
    has_residual = ctx.how[2]
    return dx, None, d_weight, d_bias, None, None, d_residual if has_residual else None


LIBRARY.impl("batch_norm", _forward, "CPU")
LIBRARY.impl("batch_norm_backward", _gradients, "CPU")
torch.library.register_fake("speechkit::batch_norm", _fake_forward, lib=LIBRARY)
torch.library.register_fake("speechkit::batch_norm_backward", _fake_gradients, lib=LIBRARY)
torch.library.register_autograd(
    "speechkit::batch_norm", _backward, setup_context=_remember, lib=LIBRARY
)
