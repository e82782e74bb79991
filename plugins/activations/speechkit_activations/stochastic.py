"""Activations that are drawn at random in training."""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.ops import Activation

MODES = ("relu", "expected", "sample")


class Stochastic(nn.Module):
    """In training y = SiLU(x) with probability p where x < 0, otherwise 0, value by value.

    Where x ≥ 0 it is x, or SiLU(x) if `positive` is silu. In evaluation it is ReLU, or `expected`,
    the mean over the draws, or a `sample`. With `steps`, training ends in ReLU: from the call
    switch_at · steps on. `calls`, saved with the weights, counts calls in training, so `steps`
    are the run's steps times its `accumulate`. With p = 1 and positive=silu it is SiLU up to the
    switch. Draws are torch's own, as dropout's are. Shape: `[B, C, T]` → the same.
    arXiv:2509.22358, whose best p and share of the last steps depend on the model: both are
    parameters here.
    """

    calls: Tensor

    def __init__(
        self,
        channels: int,
        p: float = 0.5,
        positive: str = "relu",
        eval_mode: str = "relu",
        steps: int = 0,
        switch_at: float = 0.95,
    ) -> None:
        super().__init__()
        if not 0 <= p <= 1 or not 0 <= switch_at <= 1:
            raise ValueError(f"p={p}, switch_at={switch_at}: give numbers from 0 to 1")
        if positive not in ("relu", "silu"):
            raise ValueError(f"positive={positive!r}: give relu or silu")
        if eval_mode not in MODES:
            raise ValueError(f"eval_mode={eval_mode!r}: give one of {', '.join(MODES)}")
        self.p, self.positive, self.eval_mode = p, positive, eval_mode
        self.switch = round(switch_at * steps) if steps else None
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return self.evaluate(x)
        drawn = self.mix(x, torch.rand_like(x) < self.p)
        if self.switch is None:
            return drawn
        self.calls += 1
        # where, not if: to read the counter would make the CPU wait for the GPU
        return torch.where(self.calls > self.switch, torch.relu(x), drawn)

    def evaluate(self, x: Tensor) -> Tensor:
        """What it does in evaluation."""
        if self.eval_mode == "relu":
            return torch.relu(x)
        if self.eval_mode == "expected":
            return torch.where(x < 0, self.p * F.silu(x), self.above(x))
        if torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export():
            warnings.warn(
                "a stochastic activation with eval_mode=sample goes into the file with its draws; "
                "for a file that repeats itself set eval_mode to relu or expected",
                stacklevel=2,
            )
        return self.mix(x, torch.rand_like(x) < self.p)

    def mix(self, x: Tensor, drawn: Tensor) -> Tensor:
        """SiLU below zero where `drawn`, zero elsewhere there."""
        below = torch.where(drawn, F.silu(x), 0.0)
        return torch.where(x < 0, below, self.above(x))

    def above(self, x: Tensor) -> Tensor:
        """The values where x ≥ 0."""
        return x if self.positive == "relu" else F.silu(x)

    @property
    def native(self) -> Activation | None:
        return Activation("relu") if not self.training and self.eval_mode == "relu" else None
