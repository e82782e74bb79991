"""The decaying mean of what a stream has been so far."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from speechkit.nn import Chunk, Recurrent, State, scan

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value


class DecayingMean(Recurrent):
    """The decaying mean of the valid frames so far.

        m_t = s_t / n_t,  s_t = a s_{t−1} + x_t,  n_t = a n_{t−1} + 1,  a = exp(−1 / frames)

    Shape: `[B, C, T]` → the same; state s and n `[B, C + 1]`, in float32 at least.
    """

    def __init__(self, frames: float) -> None:
        super().__init__()
        self.decay = math.exp(-1 / frames)

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        wide = torch.promote_types(dtype, torch.float32)
        return torch.zeros(batch, c_in + 1, dtype=wide, device=device)

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        x, real = c.masked.transpose(1, 2), c.valid[:, :, None]
        given = torch.cat([x, real], dim=2).to(state.dtype)
        sums = scan(torch.where(real, self.decay, state.new_ones(())), given, state)
        means: Tensor = (sums[:, :, :-1] / sums[:, :, -1:].clamp(min=1)).to(x.dtype)
        last = torch.cat([state[:, None], sums], dim=1)[:, -1]
        return Chunk(means.transpose(1, 2), c.valid), last

    def lower(self, program: Lowering, x: Value) -> Value:
        ones = program.affine(x, torch.zeros(x.channels), torch.ones(x.channels))
        # a complex scan by a real a: s is the real part, n in each channel the imaginary part
        a = torch.tensor([self.decay, 0], dtype=torch.float64).repeat_interleave(x.channels)
        weights = torch.stack([a, a - a.float()])
        sums = program.emit("scan", program.join(x, ones), size=2, weights=weights)
        s, n = (program.part(sums, start, x.channels) for start in (0, x.channels))
        return program.expression("a / max(b, 1)", {}, s, n)
