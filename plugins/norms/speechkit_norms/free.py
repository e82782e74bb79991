"""For nets without norms: a leaky ReLU with a learned slope, and the entropy of attention."""

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


def attention_entropy(weights: Tensor, valid: Tensor, normalize: bool = False) -> Tensor:
    """H = −Σ_k p_k ln p_k over the valid keys, averaged over batch and valid queries: one per head.

    `normalize` divides each query's H by ln of the number of valid keys, so that the maximum is 1.
    In nets without norms, heads can end near the maximum ("entropic overload"). Shape: weights
    `[B, heads, queries, keys]`, valid `[B, frames]` bool for queries and keys; H `[heads]` in nats.
    Jha & Reagen, arXiv:2410.09637.
    """
    p = torch.where(valid[:, None, None, :], weights, 0)
    entropy = torch.special.entr(p).sum(3)
    if normalize:
        # the entropy of a single key is 0 in any unit
        entropy = entropy / valid.sum(1).clamp(min=2).log()[:, None, None]
    real = valid[:, None, :]
    return torch.where(real, entropy, 0).sum((0, 2)) / real.sum().clamp(min=1)
