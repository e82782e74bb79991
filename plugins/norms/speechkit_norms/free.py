"""For nets without norms: a leaky ReLU that learns its slope, and how spread out attention is."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.errors import ComponentError
from speechkit.ops import Activation


class LearnableLeakyReLU(nn.Module):
    """y = x for x ≥ 0, slope · x below; one slope for the layer, or one per channel.

    The slope starts at `init`. Shape: x `[B, C, T]` → the same. Jha & Reagen, arXiv:2410.09637,
    whose third mode, one slope for the whole net, no layer can have on its own.
    """

    undecayed = ("slope",)

    def __init__(self, channels: int, init: float = 0.01, mode: str = "layer") -> None:
        super().__init__()
        if mode not in ("layer", "channel"):
            raise ComponentError(f"mode={mode!r}: give layer or channel")
        self.slope = nn.Parameter(torch.full((channels if mode == "channel" else 1,), init))

    @property
    def native(self) -> Activation | None:
        """What it is to a fused op once it does not learn any more."""
        if self.training or len(self.slope) > 1:
            return None
        return Activation("pieces", (0.0,), ((0.0, self.slope.item(), 0.0), (0.0, 1.0, 0.0)))

    def forward(self, x: Tensor) -> Tensor:
        return F.prelu(x, self.slope.to(x.dtype))

    def extra_repr(self) -> str:
        return f"slopes={len(self.slope)}"


def attention_entropy(weights: Tensor, valid: Tensor, normalize: bool = False) -> Tensor:
    """H = −Σ_k p_k ln p_k over the valid keys, averaged over batch and valid queries: one per head.

    `normalize` divides each query's H by ln of the number of valid keys, which makes 1 the largest.
    Nets without norms can end with heads near it ("entropic overload"). Shape: weights
    `[B, heads, queries, keys]`, valid `[B, frames]` bool for queries and keys alike; H `[heads]`
    in nats. Jha & Reagen, arXiv:2410.09637.
    """
    p = torch.where(valid[:, None, None, :], weights, 0)
    entropy = torch.special.entr(p).sum(3)
    if normalize:
        # one key alone has an entropy of 0 in any unit
        entropy = entropy / valid.sum(1).clamp(min=2).log()[:, None, None]
    real = valid[:, None, :]
    return torch.where(real, entropy, 0).sum((0, 2)) / real.sum().clamp(min=1)
