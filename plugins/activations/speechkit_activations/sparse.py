"""Functions that are zero below a threshold, and a 1×1 layer with such zeros in its input.

Shape of the functions: `[B, C, T]` → the same.
"""

import torch
from torch import Tensor, nn

from speechkit.nn import Elementwise, FrameWise, Pointwise, Serial, StreamLayer


class ShiftedReLU(Elementwise):
    """y = max(x − b, 0): the larger b, the more zeros. Mirzadeh et al., arXiv:2310.04564."""

    expression = "relu(x - b)"

    def __init__(self, channels: int, b: float = 0.0) -> None:
        super().__init__()
        self.b = b


class FATReLU(nn.Module):
    """y = x where x ≥ threshold, otherwise 0; in the first `relu_calls` calls in training, ReLU.

    With `relu_calls`, the buffer `calls` counts the calls in training and is saved with the
    weights. So `relu_calls` is a number of steps times the run's `accumulate`. Song et al.,
    arXiv:2402.13516, add the threshold at the end of training.
    """

    expression = "where(x < threshold, 0, x)"
    calls: Tensor

    def __init__(self, channels: int, threshold: float = 0.01, relu_calls: int = 0) -> None:
        super().__init__()
        self.threshold, self.relu_calls = threshold, relu_calls
        if relu_calls:
            self.register_buffer("calls", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        threshold: float | Tensor = self.threshold
        if self.training and self.relu_calls:
            self.calls += 1
            threshold = torch.where(self.calls > self.relu_calls, threshold, 0.0)
        # with this order of the comparison a NaN stays
        return torch.where(x < threshold, 0.0, x)


def relu_linear(c_in: int, c_out: int) -> StreamLayer:
    """y = W max(x, 0), for use after a depthwise convolution, whose output has no zeros.

    Shape: `[B, c_in, T]` → `[B, c_out, T]`. It follows the second stage of Mirzadeh et al.,
    arXiv:2310.04564: a ReLU after each norm before a matrix product.
    """
    return Serial(activation=FrameWise(nn.ReLU()), linear=Pointwise(c_in, c_out))
