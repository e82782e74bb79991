"""A convolution over time whose taps are learned functions."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.nn import Conv, LookAhead
from speechkit.ops.explain import Choice
from speechkit_kan.basis import chebyshev
from speechkit_kan.edges import at_least


class ChebConv(Conv):
    """y[c, t] = Σ_k f_ck(x[c, t + k]), f_ck(x) = w_ck x + a_ck Σ_n b_ckn T_n(tanh x), n ≤ degree.

    With `shared`, all channels have the same functions. What is before the start and after the end
    counts as x = 0, where f need not be 0. The b start with the standard deviation
    1 / (kernel (degree + 1)), a as 1. Shape: x `[B, C, T]`, y `[B, C, ceil(T / stride)]`.
    RKAN, arXiv:2410.05500.
    """

    def __init__(
        self,
        channels: int,
        kernel: int,
        stride: int = 1,
        dilation: int = 1,
        lookahead: LookAhead = "same",
        degree: int = 3,
        shared: bool = False,
    ) -> None:
        super().__init__(kernel, stride, dilation, lookahead)
        at_least(degree=(degree, 0))
        self.degree = degree
        rows = 1 if shared else channels
        self.weight = nn.Parameter(torch.empty(rows, 1, kernel))
        nn.init.xavier_uniform_(self.weight)
        self.scale = nn.Parameter(torch.ones(rows, kernel))
        self.coefficients = nn.Parameter(torch.empty(rows, kernel, degree + 1))
        nn.init.normal_(self.coefficients, std=1 / (kernel * (degree + 1)))

    def implementation(self) -> Choice:
        """What its convolution runs."""
        return Choice("conv2d", "torch", {})

    def compute(self, x: Tensor, frames: int) -> Tensor:
        # no frames have as many channels as any others, also where a kernel is shared
        return super().compute(x, frames) if frames else x[:, :, :0]

    def convolve(self, window: Tensor) -> Tensor:
        x = window.transpose(1, 2)
        channels = x.shape[2]
        terms = torch.cat([x.unsqueeze(3), chebyshev(x.tanh(), self.degree)], dim=3)
        rest = (self.coefficients * self.scale.unsqueeze(2)).transpose(1, 2)
        kernels = torch.cat([self.weight, rest], dim=1).expand(channels, -1, -1)
        y = F.conv2d(
            terms.flatten(2).transpose(1, 2).unsqueeze(2),
            kernels.unsqueeze(2),
            stride=(1, self.stride),
            dilation=(1, self.dilation),
            groups=channels,
        )
        return y.squeeze(2)

    def extra_repr(self) -> str:
        return f"degree={self.degree}, kernels={len(self.weight)}, {super().extra_repr()}"
