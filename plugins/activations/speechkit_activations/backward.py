"""Functions with a gradient that is not their derivative. Shape of all: `[B, C, T]` → the same."""

from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class HeLU(nn.Module):
    """y = max(x, 0); its gradient in training is 1 for x > −alpha.

    So a unit slightly below zero still has a gradient. In evaluation it is ReLU, also in the
    backward pass. Kimhi et al., arXiv:2411.10573.
    """

    expression = "relu(x)"

    def __init__(self, channels: int, alpha: float = 0.05) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return torch.relu(x)
        y: Tensor = _Hysteresis.apply(x, self.alpha)  # type: ignore[no-untyped-call]
        return y


class ReGELU2(nn.Module):
    """y = x (1 + erf(x / √2)) / 2; it stores 2 bits of each value for its gradient.

    The gradient in training is that of Σ_k a_k · max(x − c_k, 0), a sum of three ReLUs fitted to
    GELU: 0, −0.049, 1.049 or 1. In evaluation it is GELU, also in the backward pass. Yang et al.,
    arXiv:2406.16282.
    """

    expression = "gelu(x)"

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return F.gelu(x)
        y: Tensor = _TwoBits.apply(x, F.gelu, GELU_SLOPES, GELU_BOUNDS)  # type: ignore[no-untyped-call]
        return y


class ReSiLU2(nn.Module):
    """y = x · sigmoid(x); it stores 2 bits of each value for its gradient.

    The gradient in training is that of Σ_k a_k · max(x − c_k, 0), a sum of three ReLUs fitted to
    SiLU: 0, −0.041, 1.040 or 1. In evaluation it is SiLU, also in the backward pass. Yang et al.,
    arXiv:2406.16282.
    """

    expression = "silu(x)"

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return F.silu(x)
        y: Tensor = _TwoBits.apply(x, F.silu, SILU_SLOPES, SILU_BOUNDS)  # type: ignore[no-untyped-call]
        return y


# a_k and c_k as the authors found them by annealing
GELU_SLOPES = (-0.04922261145617846, 1.0979632065417297, -0.048740595085551286)
GELU_BOUNDS = (-3.1858810036855245, -0.001178821281161997, 3.190832613414926)
SILU_SLOPES = (-0.04060357190528599, 1.080925428529668, -0.040321856624382146)
SILU_BOUNDS = (-6.3050461001646445, -0.0008684942046214787, 6.325815242089708)


def pack_codes(codes: Tensor) -> Tensor:
    """Numbers 0 … 3 of any shape as uint8 `[⌈n / 4⌉]`, four in each byte, in memory's order."""
    flat = F.pad(codes.reshape(-1), (0, -codes.numel() % 4)).view(-1, 4)
    return flat[:, 0] | flat[:, 1] << 2 | flat[:, 2] << 4 | flat[:, 3] << 6


def unpack_codes(packed: Tensor, shape: torch.Size) -> Tensor:
    """The numbers that `pack_codes` packed."""
    four = torch.stack([packed >> shift & 3 for shift in (0, 2, 4, 6)], dim=1)
    return four.view(-1)[: shape.numel()].view(shape)


class _Hysteresis(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: float) -> Tensor:
        ctx.save_for_backward(x > -alpha)
        return torch.relu(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (on,) = ctx.saved_tensors
        return gradient * on, None


class _TwoBits(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, function: Any, slopes: tuple[float, ...], bounds: tuple[float, ...]
    ) -> Tensor:
        # frames `[B, T, C]` are contiguous in memory
        frames = x.transpose(1, 2)
        codes = torch.zeros_like(frames, dtype=torch.uint8)
        for bound in bounds:
            codes += frames > bound
        ctx.save_for_backward(pack_codes(codes))
        ctx.shape = frames.shape
        ctx.levels = tuple(accumulate((0.0, *slopes)))
        y: Tensor = function(x)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        codes = unpack_codes(ctx.saved_tensors[0], ctx.shape)
        levels = torch.tensor(ctx.levels, dtype=gradient.dtype, device=gradient.device)
        return gradient * levels[codes.int()].transpose(1, 2), None, None, None
