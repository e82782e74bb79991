"""The shape of a fused separable convolution, without its weights."""

from dataclasses import dataclass
from typing import Literal

from speechkit.ops.activation import NONE, Activation

Precision = Literal["float32", "bfloat16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "int8")
"""In the order of the C++ enumeration."""


@dataclass(frozen=True)
class Shape:
    """`taps` is 0 without a depthwise part; `padding` is (left, right) in frames.

    `precision` is that of the 1×1 part's weights and inputs; sums are float32 (int32 for int8).
    """

    c_in: int
    c_out: int
    taps: int = 0
    stride: int = 1
    dilation: int = 1
    padding: tuple[int, int] = (0, 0)
    activation: Activation = NONE
    precision: Precision = "float32"

    def frames_out(self, frames: int) -> int:
        """The number of output frames for `frames` input frames."""
        span = self.dilation * (max(self.taps, 1) - 1) + 1
        return (sum(self.padding) + frames - span) // self.stride + 1
