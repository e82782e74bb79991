"""Norms with the statistics of the frames up to the current one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from speechkit.frontend import Running
from speechkit.nn import Chunk, Recurrent, State
from speechkit_norms.precision import wide, wide_type

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value


class CumulativeLayerNorm(Recurrent):
    """y_t = (x_t − μ_t) / √(σ²_t + eps) · weight + bias, over channels and valid frames up to t.

    At a row's last frame the statistics are those of `layer_ct`. Initially weight 1, bias 0.
    Shape: x `[B, C, T]` → the same, weight and bias `[C]`; state: frames so far, μ and σ², each
    `[B, 1, 1]` in float32 at least. After Ba et al., arXiv:1607.06450.
    """

    undecayed = ("weight", "bias")

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        return tuple(
            torch.zeros(batch, 1, 1, dtype=wide_type(dtype), device=device) for _ in range(3)
        )

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        n, mean, variance = state
        x, real = wide(c.masked.transpose(1, 2)), c.valid[:, :, None].to(n.dtype)
        centre = x.mean(2, keepdim=True)
        frames = _summed(n, real)
        count = frames.clamp(min=1)
        # sums of distances from the previous mean, which stay small in a stream of any length
        means = mean + _summed(torch.zeros_like(mean), (centre - mean) * real) / count
        # Chan et al., 1983: no difference of large squares
        within = (x - centre).square().mean(2, keepdim=True)
        between = (1 - 1 / count[:, 1:]) * (centre - means[:, :-1]).square()
        variances = _summed(n * variance, (within + between) * real) / count
        normal = (x - means[:, 1:]) * torch.rsqrt(variances[:, 1:] + self.eps)
        y = torch.addcmul(self.bias, normal, self.weight).to(c.x.dtype)
        after = frames[:, -1:], means[:, -1:], variances[:, -1:]
        return Chunk(y.transpose(1, 2), c.valid), after

    def lower(self, program: Lowering, x: Value) -> Value:
        weights = program.scales(x, self.weight, self.bias)
        return program.emit("cumulative_norm", x, weights=weights, numbers=[self.eps])

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}"


class RunningNorm(Running):
    """y_t = (x_t − m_t) / √(v_t + 1e-5) · weight + bias, with each channel's running statistics.

    m and v are those of the front end's `normalize=running`: weighted means over the valid frames
    up to t. The weights fall by a factor of e in `time_constant_frames`. The means start with
    `prior_frames` frames of mean 0 and variance 1. Initially weight 1, bias 0. Shape: x `[B, C, T]`
    → the same, weight and bias `[C]`. It is instance normalisation, Ulyanov et al.,
    arXiv:1607.08022, for streams.
    """

    undecayed = ("weight", "bias")

    def __init__(
        self, channels: int, time_constant_frames: float = 300, prior_frames: float = 10
    ) -> None:
        super().__init__(channels, time_constant_frames, prior_frames)
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        return super().init_state(batch, c_in, wide_type(dtype), device)

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        normal, state = super().step(Chunk(wide(c.x), c.valid), state)
        y = torch.addcmul(self.bias, normal.x.transpose(1, 2), self.weight).to(c.x.dtype)
        return Chunk(y.transpose(1, 2), c.valid), state

    def lower(self, program: Lowering, x: Value) -> Value:
        return self.lower_running(program, x, self.weight, self.bias)


def _summed(start: Tensor, added: Tensor) -> Tensor:
    """start, start + added_1, start + added_1 + added_2, …; `[B, T + 1, 1]`."""
    return torch.cat([start, added], dim=1).cumsum(1)
