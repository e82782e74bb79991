"""The reference implementation: simple, slow and differentiable."""

import torch
import torch.nn.functional as F
from torch import Tensor


def unsupported(x: Tensor, weight: Tensor) -> str | None:
    """None: it takes any tensors."""
    return None


def depthwise_conv(
    x: Tensor,
    weight: Tensor,
    stride: int,
    dilation: int,
    padding: tuple[int, int],
    valid: Tensor | None,
) -> Tensor:
    """Shapes as the public function."""
    if valid is not None:
        x = torch.where(valid[:, None], x, 0)
    x = F.pad(x, padding)
    taps = weight.shape[2]
    frames = (x.shape[2] - dilation * (taps - 1) - 1) // stride + 1
    ends = [k * dilation + (frames - 1) * stride + 1 for k in range(taps)]
    parts = [x[:, :, k * dilation : ends[k] : stride] * weight[:, :, k] for k in range(taps)]
    return torch.stack(parts).sum(0)
