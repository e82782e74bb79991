"""For nets without norms: a leaky ReLU with a learned slope."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.errors import ComponentError


class LearnableLeakyReLU(nn.Module):
    """y = x for x ≥ 0, slope · x below; one slope for the layer, or one per channel.

    The slope starts at `init`. Shape: x `[B, C, T]` → the same. Jha & Reagen, arXiv:2410.09637. The
    paper's third mode, one slope for the whole net, is not available.
    """

    undecayed = ("slope",)
    expression = "where(x > 0, x, slope * x)"

    def __init__(self, channels: int, init: float = 0.01, mode: str = "layer") -> None:
        super().__init__()
        if mode not in ("layer", "channel"):
            raise ComponentError(f"mode={mode!r}: give layer or channel")
        self.slope = nn.Parameter(torch.full((channels if mode == "channel" else 1,), init))

    def forward(self, x: Tensor) -> Tensor:
        return F.prelu(x, self.slope.to(x.dtype))

    def extra_repr(self) -> str:
        return f"slopes={len(self.slope)}"
