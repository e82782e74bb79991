"""Activations that are drawn at random in training."""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MODES = ("relu", "expected", "sample")


class Stochastic(nn.Module):
    """In training, for each x < 0, y = SiLU(x) with probability p, otherwise 0.

    For x ≥ 0 it is x, or SiLU(x) if `positive` is silu. In evaluation it is ReLU, the mean over the
    draws (`expected`), or a `sample`. With `steps`, training ends with ReLU, from the call
    switch_at · steps on. The buffer `calls` counts the calls in training and is saved with the
    weights. So `steps` is the run's steps times its `accumulate`. With p = 1 and positive=silu it
    is SiLU up to the switch. Random numbers are from torch's generator, as for dropout. Shape:
    `[B, C, T]` → the same. arXiv:2509.22358. The best p and share of the last steps depend on the
    model, so both are parameters.
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
        # where, not if: with an if, the CPU would wait for the counter from the GPU
        return torch.where(self.calls > self.switch, torch.relu(x), drawn)

    @property
    def expression(self) -> str:
        """The function in evaluation, "" if that is drawn at random."""
        above = "x" if self.positive == "relu" else "silu(x)"
        return {"relu": "relu(x)", "expected": f"where(x < 0, p * silu(x), {above})"}.get(
            self.eval_mode, ""
        )

    def evaluate(self, x: Tensor) -> Tensor:
        """The function in evaluation."""
        if self.eval_mode == "relu":
            return torch.relu(x)
        if self.eval_mode == "expected":
            return torch.where(x < 0, self.p * F.silu(x), self.above(x))
        if torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export():
            warnings.warn(
                "a stochastic activation with eval_mode=sample is exported with its random draws; "
                "for a deterministic file set eval_mode to relu or expected",
                stacklevel=2,
            )
        return self.mix(x, torch.rand_like(x) < self.p)

    def mix(self, x: Tensor, drawn: Tensor) -> Tensor:
        """Below zero: SiLU where `drawn`, else zero."""
        below = torch.where(drawn, F.silu(x), 0.0)
        return torch.where(x < 0, below, self.above(x))

    def above(self, x: Tensor) -> Tensor:
        """The values where x ≥ 0."""
        return x if self.positive == "relu" else F.silu(x)
