"""Retention: attention that fades with distance, computed from a state of fixed size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.errors import ComponentError
from speechkit.nn import Chunk, LookAhead, Pointwise, Recurrent, State
from speechkit_mixers.heads import join_heads, split_heads
from speechkit_mixers.memory import Decay, recalled, weights
from speechkit_mixers.norms import EPS, inverse_rms

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value

INPUT_GAIN, OUTPUT_GAIN = 2**-2.5, 2**-1
"""The gains of the first weights of the input and the output."""


class Retention(Recurrent):
    """y_n = W_o (swish(g_n) ⊙ norm(o_n)), o_n = Re(S_n q̄_n), S_n = γ e^{−iθ} S_{n−1} + v_n k_nᵀ.

    q, k, v, g are linear in x, and k is divided by √K. Each of H `heads` has K = C / H numbers in
    q and k, which are K / 2 complex ones with angles θ from 1 to 10⁻⁴ per frame, V = K ·
    `value_factor` in v and o, and γ = 1 − 2^(−5−h). norm is a root mean square norm of each head.
    This equals attention with rotary positions and weights γ^(n−m), without a count of frames.
    Output frame o belongs to input frame o · stride; an invalid frame leaves the state unchanged.
    Shape: `[B, C, T]` → `[B, C, ceil(T / stride)]`; state `[B, H, V, K]`, float32 at least. Sun et
    al., arXiv:2307.08621.
    """

    self_initialized = ("input", "gate", "output")

    def __init__(
        self, channels: int, stride: int = 1, heads: int = 4, value_factor: int = 2
    ) -> None:
        super().__init__()
        if heads < 1 or channels % (2 * heads) or value_factor < 1:
            raise ComponentError(
                f"mixer retention: heads={heads}, value_factor={value_factor} for {channels} "
                "channels; give heads that divide half the channels, and a factor from 1 up"
            )
        self.stride, self.heads = stride, heads
        values = value_factor * channels
        self.widths = channels, channels, values
        self.input = Pointwise(channels, sum(self.widths))
        self.gate = Pointwise(channels, values)
        self.output = Pointwise(values, channels)
        for weight in (*self.input.weight.split(self.widths), self.gate.weight):
            nn.init.xavier_uniform_(weight, INPUT_GAIN)
        nn.init.xavier_uniform_(self.output.weight, OUTPUT_GAIN)

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        wide = torch.promote_types(dtype, torch.float32)
        keys, _, values = (width // self.heads for width in self.widths)
        return (torch.zeros(batch, self.heads, values, keys, dtype=wide, device=device),)

    def decay(self, dtype: torch.dtype, device: Any = None) -> Decay:
        """γ of each head as its logarithm, and θ of each pair."""
        heads = torch.arange(self.heads, dtype=dtype, device=device)
        pairs = self.widths[0] // self.heads // 2
        exponents = torch.linspace(0, 1, pairs, dtype=torch.float64, device=device)
        return Decay(torch.log1p(-(2 ** (-5 - heads))), 10000**-exponents)

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        self.check_chunk(c)
        if not c.x.shape[2]:
            return c, state
        (memory,) = state
        x = Chunk(c.masked, c.valid)
        q, k, v = self._heads(x, memory.dtype)
        o, memory = recalled(q, k, v, c.valid, memory, self.decay(memory.dtype, memory.device))
        o = join_heads((o * inverse_rms(o))[:, :, :: self.stride])
        shown = Chunk(x.x[:, :, :: self.stride], c.valid[:, :: self.stride])
        gated = F.silu(self.gate(shown).x) * o.to(c.x.dtype).transpose(1, 2)
        return self.output(Chunk(gated, shown.valid)), (memory,)

    def implicit_attention(self, c: Chunk) -> Tensor:
        """α `[B, H, T, T]` with α v = norm(o): the weight of each frame in each later one."""
        q, k, v = self._heads(Chunk(c.masked, c.valid), torch.promote_types(c.x.dtype, torch.float))
        alpha = weights(q, k, c.valid, self.decay(q.dtype, q.device))
        return (alpha * inverse_rms(alpha @ v))[:, :, :: self.stride]

    def lower(self, program: Lowering, x: Value) -> Value:
        decay = self.decay(torch.float64)
        a = torch.exp(decay.log[:, None] - 1j * decay.angles).flatten().numpy()
        parts = np.stack([a.real, a.imag])
        rounded = parts.astype(np.float32)
        keys, _, values = self.widths
        o = program.emit(
            "retention",
            program.matrix(x, self._scaled()),
            rows=x.rows // self.stride,
            channels=values,
            stride=self.stride,
            size=self.heads,
            taps=keys // self.heads,
            # with the rest: a head multiplies rounded numbers up to 2^(5+h) times before it forgets
            weights=np.concatenate([rounded, parts - rounded]),
        )
        shown = program.normalize(o, EPS, groups=self.heads, centred=False)
        gate = program.matrix(x, self.gate.weight, stride=self.stride)
        gated = program.expression("silu(a) * b", {}, gate, shown)
        return program.matrix(gated, self.output.weight)

    def macs(self, frames: int) -> int:
        keys, _, values = self.widths
        # the maps, then a S, k vᵀ and q S
        each = self.input.weight.numel() + 4 * keys * values // self.heads
        shown = self.gate.weight.numel() + self.output.weight.numel()
        return each * frames + shown * -(-frames // self.stride)

    def _heads(self, c: Chunk, dtype: torch.dtype) -> list[Tensor]:
        # q, k and v, [B, H, T, K] or [B, H, T, V]
        given = self.input(c).x.transpose(1, 2).to(dtype)
        q, k, v = (split_heads(part, self.heads) for part in given.split(self.widths, dim=2))
        return [q, k * k.shape[3] ** -0.5, v]

    def _scaled(self) -> Tensor:
        # the input's weight with the factor of k
        factor = (self.widths[0] // self.heads) ** -0.5
        scale = torch.tensor([1, factor, 1]).repeat_interleave(torch.tensor(self.widths))
        return self.input.weight.detach() * scale.to(self.input.weight)[:, None]

    def extra_repr(self) -> str:
        return f"heads={self.heads}, stride={self.stride}"


def retention(
    channels: int,
    kernel: int,
    stride: int,
    dilation: int,
    lookahead: LookAhead,
    heads: int = 4,
    value_factor: int = 2,
) -> Retention:
    """Retention as a mixer; it is causal with unlimited memory, so `kernel`, `dilation` and
    `lookahead` have no effect."""
    return Retention(channels, stride, heads, value_factor)
