"""Batch norms with a shortcut, which fold into the previous layer as batch norms do."""

import torch
from torch import nn

from speechkit.component import Spec
from speechkit.errors import ComponentError
from speechkit.nn import Affine, BatchNorm, Chunk, StreamLayer, as_layer
from speechkit.plugins import registry


class RepBN(StreamLayer):
    """y = BN(x) + α · x, with one α for all channels, learned.

    BN is the core's `batch`, with the statistics of the batch's valid frames in training and
    running statistics in evaluation. Then the layer is one scale and shift per channel: y = x · (γ
    / √(σ² + eps) + α) + β − γ μ / √(σ² + eps). α starts at `alpha`. Shape: `[B, C, T]` → the same.
    Guo et al., SLAB, arXiv:2405.11582.
    """

    undecayed = ("alpha",)

    def __init__(
        self, channels: int, alpha: float = 1.0, eps: float = 1e-3, momentum: float = 0.1
    ) -> None:
        super().__init__()
        self.batch = BatchNorm(channels, eps, momentum)
        # shape [1], not []: FSDP refuses parameters without dimensions
        self.alpha = nn.Parameter(torch.full((1,), alpha))

    def forward(self, c: Chunk) -> Chunk:
        return Chunk(self.batch(c).x + self.alpha * c.x, c.valid)

    def fuse(self) -> Affine:
        """What it does in evaluation, for `fuse` to fold into the layer before."""
        batch = self.batch.fuse()
        return Affine(batch.scale + self.alpha.detach(), batch.shift)


class PRepBN(StreamLayer):
    """y = λ · first(x) + (1 − λ) · RepBN(x) in training, RepBN(x) in evaluation.

        λ = 1                                       for `warm` steps, then
        λ = r0 · max(0, 1 − step / `steps`)         step = 0, 1, 2, … after the warm steps

    A step is a call in training: with k batches per optimiser step, multiply `steps` by k. The
    count is in the state dict. RepBN's statistics are updated from the first step on. Use at most
    the number of training steps; otherwise evaluation uses a RepBN that was never trained without
    `first`. Shape: `[B, C, T]` → the same. Guo et al., SLAB, arXiv:2405.11582.
    """

    def __init__(
        self,
        channels: int,
        first: Spec | str = "norms/layer",
        warm: int = 0,
        steps: int = 60000,
        r0: float = 1.0,
        alpha: float = 1.0,
        eps: float = 1e-3,
        momentum: float = 0.1,
    ) -> None:
        super().__init__()
        if warm < 0 or steps < 1:
            raise ComponentError(f"warm={warm}, steps={steps}: give 0 or more, and at least 1")
        self.warm, self.steps, self.r0 = warm, steps, r0
        self.first = as_layer(registry().build("norm", first, channels))
        self.rep = RepBN(channels, alpha, eps, momentum)

    @property
    def share(self) -> torch.Tensor:
        """λ of the next call in training."""
        step = self.rep.batch.num_batches_tracked - self.warm
        falling = self.r0 * (1 - step / self.steps).clamp(min=0)
        return torch.where(step < 0, 1, falling)

    def forward(self, c: Chunk) -> Chunk:
        # before RepBN counts this call
        share = self.share
        y: Chunk = self.rep(c)
        if not self.training:
            return y
        return Chunk(share * self.first(c).x + (1 - share) * y.x, c.valid)

    def fuse(self) -> Affine:
        """What it does in evaluation, for `fuse` to fold into the layer before."""
        return self.rep.fuse()

    def extra_repr(self) -> str:
        return f"warm={self.warm}, steps={self.steps}, r0={self.r0}"
