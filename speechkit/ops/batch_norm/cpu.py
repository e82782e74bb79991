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
    "batch_norm(Tensor x, Tensor valid, Tensor weight, Tensor bias, float eps)"
    " -> (Tensor, Tensor, Tensor)"
)
LIBRARY.define(
    "batch_norm_backward(Tensor dy, Tensor x, Tensor valid, Tensor weight, Tensor mean,"
    " Tensor variance, float eps) -> (Tensor, Tensor, Tensor)"
)


def batch_norm(
    x: Tensor, valid: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Shapes as the public function."""
    y, mean, variance = torch.ops.speechkit.batch_norm(x, valid, weight, bias, eps)
    return y, mean.detach(), variance.detach()


def _forward(
    x: Tensor, valid: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    kind = sum_type(x.dtype)
    rows, y = x.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
    mean, variance = (torch.empty_like(weight, dtype=kind) for _ in range(2))
    given = rows, valid.contiguous(), weight.to(kind), bias.to(kind), y, mean, variance
    call(
        function(SOURCE, "batch_norm", x), *given, torch.tensor(eps, dtype=torch.float64), *x.shape
    )
    return y, mean, variance


def _gradients(
    dy: Tensor,
    x: Tensor,
    valid: Tensor,
    weight: Tensor,
    mean: Tensor,
    variance: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of input, weight and bias."""
    kind = sum_type(x.dtype)
    rows, d = x.contiguous(), dy.to(x.dtype).contiguous()
    dx = torch.empty_like(rows)
    d_weight, d_bias = (torch.empty_like(weight, dtype=kind) for _ in range(2))
    given = d, rows, valid.contiguous(), weight.to(kind), mean, variance, dx, d_weight, d_bias
    number = torch.tensor(eps, dtype=torch.float64)
    call(function(SOURCE, "batch_norm_backward", x), *given, number, *x.shape)
    return dx, d_weight.to(weight.dtype), d_bias.to(weight.dtype)


def _fake_forward(
    x: Tensor, valid: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    kind = sum_type(x.dtype)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    return y, torch.empty_like(weight, dtype=kind), torch.empty_like(weight, dtype=kind)


def _fake_gradients(
    dy: Tensor,
    x: Tensor,
    valid: Tensor,
    weight: Tensor,
    mean: Tensor,
    variance: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    return dx, torch.empty_like(weight), torch.empty_like(weight)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, valid, weight, _, ctx.eps = inputs
    ctx.save_for_backward(x, valid, weight, *output[1:])


def _backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    backward = torch.ops.speechkit.batch_norm_backward
    dx, d_weight, d_bias = backward(dy, *ctx.saved_tensors, ctx.eps)
    return dx, None, d_weight, d_bias, None


LIBRARY.impl("batch_norm", _forward, "CPU")
LIBRARY.impl("batch_norm_backward", _gradients, "CPU")
torch.library.register_fake("speechkit::batch_norm", _fake_forward, lib=LIBRARY)
torch.library.register_fake("speechkit::batch_norm_backward", _fake_gradients, lib=LIBRARY)
torch.library.register_autograd(
    "speechkit::batch_norm", _backward, setup_context=_remember, lib=LIBRARY
)
