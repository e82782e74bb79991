"""The same in C++ for this processor, in float32, as a torch custom op.

The matrix library that torch calls is optimised for Intel processors: on an AMD one it had a fifth
of the speed.
"""

import ctypes
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from speechkit.native.libraries import load
from speechkit.ops.native import LIBRARY, call

SOURCE = Path(__file__).with_name("cpu.cpp")
FEWEST_ROWS = 64
"""With fewer rows, packing the weight takes longer than the product."""


def unsupported(x: Tensor, weight: Tensor) -> str | None:
    """Why this implementation cannot take these tensors, or None."""
    if x.device.type != "cpu":
        return f"it runs on the CPU, not on {x.device.type}"
    single = x.dtype == weight.dtype == torch.float32
    if not single and not torch.is_autocast_enabled("cpu"):
        return f"it computes in float32, not {x.dtype} by {weight.dtype}"
    library = load(SOURCE)
    return library if isinstance(library, str) else None


LIBRARY.define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
LIBRARY.define("linear_weight(Tensor x, Tensor dy) -> Tensor")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Shapes as the public function; torch computes few rows and everything under autocast."""
    few = x.shape[:-1].numel() < FEWEST_ROWS
    if few or x.ndim != 3 or torch.is_autocast_enabled("cpu"):
        return F.linear(x, weight, bias)
    y: Tensor = torch.ops.speechkit.linear(x, weight, bias)
    return y


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    rows = x.contiguous()
    y = rows.new_empty(*rows.shape[:2], weight.shape[0])
    sizes = rows.shape[0] * rows.shape[1], *weight.shape[::-1]
    call(_library().linear, rows, weight, bias, y, *sizes, weight.stride(1), weight.stride(0))
    return y


def _weight_gradient(x: Tensor, dy: Tensor) -> Tensor:
    """dyᵀ x for `[B, T, C]` and `[B, T, C']`."""
    dw = x.new_empty(dy.shape[2], x.shape[2])
    sizes = x.shape[0] * x.shape[1], x.shape[2], dy.shape[2]
    call(_library().linear_weight, x.contiguous(), dy.contiguous(), dw, *sizes)
    return dw


def _library() -> ctypes.CDLL:
    library = load(SOURCE)
    assert isinstance(library, ctypes.CDLL), library
    return library


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:2], weight.shape[0])


def _fake_weight_gradient(x: Tensor, dy: Tensor) -> Tensor:
    return x.new_empty(dy.shape[2], x.shape[2])


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _ = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    x, weight = ctx.saved_tensors
    wants_x, wants_weight, wants_bias = ctx.needs_input_grad
    dx = torch.ops.speechkit.linear(dy, weight.T, None) if wants_x else None
    dw = torch.ops.speechkit.linear_weight(x, dy) if wants_weight else None
    return dx, dw, dy.sum((0, 1)) if wants_bias else None


LIBRARY.impl("linear", _forward, "CPU")
LIBRARY.impl("linear_weight", _weight_gradient, "CPU")
torch.library.register_fake("speechkit::linear", _fake, lib=LIBRARY)
torch.library.register_fake("speechkit::linear_weight", _fake_weight_gradient, lib=LIBRARY)
torch.library.register_autograd(
    "speechkit::linear", _backward, setup_context=_remember, lib=LIBRARY
)
