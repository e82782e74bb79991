"""The matching loss of an activation."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from speechkit.errors import ComponentError, TrainingError
from speechkit.tasks import IGNORED
from speechkit_methods.elementwise import applied, elementwise

NODES = 32
"""The number of points at which an integral samples the activation."""


class Matching:
    """Σ_k Φ(z_k) − y_k z_k, with scores z, y 1 for the target and 0 for others, and Φ′ = g.

    Φ(z) is the integral from 0 to z of the activation g. The gradient is g(z) − y, without the
    factor g′(z) of (g(z) − y)², which is 0 where ReLU is off. The gradient is exact; Φ is computed
    by Gauss-Legendre quadrature with 32 points. With g = sigmoid it is the binary cross entropy
    − log 2. Frames are averaged over those before `lengths` whose target is not −100.
    Shape: scores `[B, n]` and targets `[B]`, or `[B, T, n]` and `[B, T]` int64; losses `[B]`.
    Wang et al., arXiv:2306.07892.

    Raises ComponentError for an activation that is not elementwise or falls somewhere.
    """

    def __init__(self, activation: str = "relu") -> None:
        self.activation = elementwise("loss matching", activation, "relu")
        with torch.no_grad():
            rising = applied(self.activation, torch.linspace(-10, 10, 2001, dtype=torch.float64))
        if (rising.diff() < -1e-6).any():
            raise ComponentError(
                f"loss matching: {activation} falls somewhere, and its loss would not be convex; "
                "give an activation that never falls, such as relu"
            )
        nodes, weights = np.polynomial.legendre.leggauss(NODES)  # type: ignore[no-untyped-call]
        self.nodes, self.weights = torch.from_numpy(nodes / 2 + 0.5), torch.from_numpy(weights / 2)

    def __call__(
        self, scores: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor
    ) -> Tensor:
        if scores.ndim == 2:
            scores, targets, lengths = scores[:, None], targets[:, None], torch.ones_like(lengths)
        frames = scores.shape[1]
        if targets.shape != scores.shape[:2]:
            raise TrainingError(
                f"loss matching: scores of {frames} frames, targets of {targets.shape[1]}; give a "
                "model that classifies clips or frames"
            )
        valid = torch.arange(frames, device=scores.device) < lengths[:, None]
        valid = valid & (targets != IGNORED)
        z = scores.masked_fill(~valid[:, :, None], 0.0)
        y = F.one_hot(targets.masked_fill(~valid, 0), scores.shape[2])
        losses = (self.integral(z) - y * z).sum(2) * valid
        return losses.sum(1) / valid.sum(1).clamp(min=1)

    def integral(self, z: Tensor) -> Tensor:
        """Φ(z), whose gradient is g(z) to the bit."""
        at = z.detach()
        layer = self.activation.to(at)
        with torch.no_grad():
            slope = applied(layer, at)
            samples = applied(layer, at[..., None] * self.nodes.to(at))
        area = at * (samples @ self.weights.to(at))
        return area + slope * (z - at)
