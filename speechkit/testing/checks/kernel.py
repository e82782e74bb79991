"""A kernel computes what the op's reference computes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from speechkit.ops.depthwise_conv.reference import depthwise_conv
from speechkit.plugins import Entry
from speechkit.testing.stream import assert_close

RTOL = {torch.float64: 1e-12, torch.float32: 1e-5}
Call = tuple[Any, ...]


def check_kernel_equals_reference(entry: Entry) -> None:
    """Outputs and every gradient, over awkward shapes, in memory that is full of NaN.

    What `supports` refuses is left out, but it must not refuse everything.
    """
    kernel = entry.factory()(**entry.component.example)
    assert kernel.op in OPS, f"op {kernel.op!r}; a reference is there for {', '.join(OPS)}"
    reference, calls = OPS[kernel.op]
    taken = [call for call in calls() if kernel.supports(*call) is None]
    assert taken, "supports() refuses every call"
    for call in taken:
        shapes = [list(a.shape) if isinstance(a, Tensor) else a for a in call]
        with _poisoned_memory():
            got = _with_gradients(kernel.function, call)
        for name, want in _with_gradients(reference, call).items():
            where = f"{kernel.op}{tuple(shapes)}: {name}"
            assert_close(where, want, got[name], RTOL[call[0].dtype])


def _with_gradients(function: Callable[..., Tensor], call: Call) -> dict[str, Tensor]:
    """What it gives, and the gradient of each floating argument by its place."""
    leaves = [
        a.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        if isinstance(a, Tensor) and a.is_floating_point()
        else a
        for a in call
    ]
    y = function(*leaves)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    (y * weights).sum().backward()
    gradients = {
        f"gradient of argument {place}": leaf.grad
        for place, leaf in enumerate(leaves)
        if isinstance(leaf, Tensor) and leaf.grad is not None
    }
    return {"output": y.detach(), **gradients}


def _depthwise_calls() -> Iterator[Call]:
    chance = torch.Generator().manual_seed(0)
    for dtype in RTOL:
        for channels, frames, kernel, stride, dilation in (
            (8, 25, 5, 1, 1),
            (3, 1, 1, 1, 1),
            (17, 40, 3, 2, 1),
            (64, 33, 11, 1, 2),
        ):
            rows = torch.randn(2, frames, channels, generator=chance, dtype=dtype)
            weight = torch.randn(channels, 1, kernel, generator=chance, dtype=dtype)
            span = dilation * (kernel - 1)
            valid = torch.arange(frames) < torch.tensor([[frames], [frames // 2 + 1]])
            for padding in ((span, 0), (span // 2, span - span // 2)):
                for mask in (None, valid):
                    yield rows.transpose(1, 2), weight, stride, dilation, padding, mask


def _linear_calls() -> Iterator[Call]:
    chance = torch.Generator().manual_seed(0)
    for dtype in RTOL:
        for c_in, c_out, frames in ((8, 8, 25), (3, 17, 1), (64, 33, 40)):
            x = torch.randn(2, frames, c_in, generator=chance, dtype=dtype)
            weight = torch.randn(c_out, c_in, generator=chance, dtype=dtype)
            yield x, weight, None
            yield x, weight, torch.randn(c_out, generator=chance, dtype=dtype)


OPS: dict[str, tuple[Callable[..., Tensor], Callable[[], Iterator[Call]]]] = {
    "depthwise_conv": (depthwise_conv, _depthwise_calls),
    "linear": (F.linear, _linear_calls),
}
"""Each op's reference, and calls to compare with it."""


@contextmanager
def _poisoned_memory() -> Iterator[None]:
    """Memory from torch is full of NaN, so that what is read before it is written shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
