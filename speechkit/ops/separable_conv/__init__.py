"""A depthwise and a 1×1 convolution with bias, residual and activation, as one op.

    y = f(W (w * x) + b + residual)

Its weights are packed once and used often: `pack(...)` chooses the implementation and returns an
object to call. `separable_conv` does both in one call.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from speechkit.ops._dispatch import Choice, decide
from speechkit.ops.activation import NONE, Activation
from speechkit.ops.separable_conv import cpu, reference, ring, triton
from speechkit.ops.separable_conv import torch as torch_
from speechkit.ops.separable_conv.ring import ActiveRows, Ring, Shortcut
from speechkit.ops.separable_conv.shape import PRECISIONS, Precision, Shape

__all__ = [
    "IMPLEMENTATIONS",
    "PRECISIONS",
    "ActiveRows",
    "Packed",
    "Precision",
    "Ring",
    "Shape",
    "Shortcut",
    "implementation",
    "pack",
    "separable_conv",
]
IMPLEMENTATIONS = {"cpu": cpu, "triton": triton, "torch": torch_, "reference": reference}
"""The fastest first."""


@dataclass(frozen=True)
class Packed:
    """A separable convolution with its weights in the layout of the implementation."""

    shape: Shape
    choice: Choice
    weights: tuple[Tensor | None, ...]

    def __call__(
        self, x: Tensor, valid: Tensor | None = None, residual: Tensor | None = None
    ) -> Tensor:
        """y `[B, C', T']` of x `[B, C, T]`, which counts as zero where `valid [B, T]` is False.

        The residual is added before the activation; all are channels-last.
        """
        chosen: Any = IMPLEMENTATIONS[self.choice.impl]
        y: Tensor = chosen.run(self.shape, self.weights, x, valid, residual)
        return y

    def step(
        self,
        source: Ring,
        target: Ring,
        active: ActiveRows,
        wait: int = 0,
        shortcut: Shortcut | None = None,
    ) -> None:
        """The next frames of many sessions, from the ring of x, `wait` frames late, to that of y.

        It does not synchronise with the device. A frame is zero if its own frame of x is invalid.
        """
        left, right = self.shape.padding
        back = right // self.shape.stride * self.shape.stride + left + wait
        chosen: Any = IMPLEMENTATIONS[self.choice.impl]
        where = source, target, active, back, shortcut
        if chosen is triton:
            triton.step(self.shape, self.weights, *where)
        else:
            ring.step(self.shape, chosen.run, self.weights, *where)


def pack(
    shape: Shape,
    depthwise: Tensor | None,
    pointwise: Tensor,
    bias: Tensor,
    impl: str | None = None,
) -> Packed:
    """Weights `[C, 1, K]` (None where `shape.taps` is 0), `[C', C]` and `[C']`, ready for use.

    Raises ConfigError where `impl`, one of IMPLEMENTATIONS, cannot compute in `shape.precision`.
    """
    choice = implementation(shape, pointwise, impl)
    chosen: Any = IMPLEMENTATIONS[choice.impl]
    return Packed(shape, choice, chosen.pack(shape, depthwise, pointwise, bias))


def implementation(shape: Shape, pointwise: Tensor, impl: str | None = None) -> Choice:
    """The implementation that a layer with this matrix runs."""
    return decide("separable_conv", IMPLEMENTATIONS, impl, shape, pointwise)


def separable_conv(
    x: Tensor,
    depthwise: Tensor | None,
    pointwise: Tensor,
    bias: Tensor,
    stride: int = 1,
    dilation: int = 1,
    padding: tuple[int, int] = (0, 0),
    activation: Activation = NONE,
    residual: Tensor | None = None,
    valid: Tensor | None = None,
    impl: str | None = None,
) -> Tensor:
    """y = f(W (w * x) + b + residual) in one call; differentiable.

    Shape: x `[B, C, T]`, depthwise `[C, 1, K]` or None, pointwise `[C', C]`, bias `[C']`, y and
    residual `[B, C', (left + T + right − span) // stride + 1]`, channels-last.
    """
    c_out, c_in = pointwise.shape
    taps = 0 if depthwise is None else depthwise.shape[2]
    shape = Shape(c_in, c_out, taps, stride, dilation, padding, activation)
    return pack(shape, depthwise, pointwise, bias, impl)(x, valid, residual)
