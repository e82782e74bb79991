"""The linear recurrent unit: a complex diagonal recurrence between two maps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from speechkit.errors import ComponentError
from speechkit.nn import Chunk, Dropout, Elementwise, LookAhead, Pointwise, Recurrent, State, scan

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value


class Diagonal(Recurrent):
    """h_t = λ h_{t−1} + γ u_t, complex, with λ = exp(−exp(ν) + i exp(θ)) for each state.

    The first half of the channels is real, the second imaginary. λ starts uniform over the ring
    between the radii, with phases up to `max_phase`, and γ as √(1 − |λ|²). An invalid frame leaves
    the state unchanged. Shape: `[B, 2N, T]` → the same; state `[B, 2N]`, in float32 at least.
    Orvieto et al., arXiv:2303.06349.
    """

    undecayed = ("nu", "theta", "gamma")

    def __init__(self, states: int, r_min: float, r_max: float, max_phase: float) -> None:
        super().__init__()
        # from above 0, so that the logarithms are finite
        u = 1 - torch.rand(2, states, dtype=torch.float64)
        # -ln |λ| = exp(ν)
        fading = -0.5 * (u[0] * (r_max**2 - r_min**2) + r_min**2).log()
        fading = fading.clamp(min=torch.finfo(torch.float32).eps)
        self.nu = nn.Parameter(fading.log().float())
        self.theta = nn.Parameter((max_phase * u[1]).log().float())
        self.gamma = nn.Parameter((0.5 * (-torch.expm1(-2 * fading)).log()).float())

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        wide = torch.promote_types(dtype, torch.float32)
        return (torch.zeros(batch, c_in, dtype=wide, device=device),)

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        (h,) = state
        if not c.x.shape[2]:
            return c, state
        real = c.valid[:, :, None]
        one = torch.ones_like(self.nu, dtype=h.dtype)
        a = torch.where(real, self.eigenvalues(h.dtype), torch.cat([one, 0 * one]))
        u = c.masked.transpose(1, 2).to(h.dtype) * self.gamma.to(h.dtype).exp().repeat(2)
        hs = scan(a, u, h, pairs=True)
        return Chunk(hs.to(c.x.dtype).transpose(1, 2), c.valid), (hs[:, -1],)

    def implicit_attention(self, c: Chunk) -> Tensor:
        """alpha[b, n, t, s] = γ λ^(t − s), complex, t − s in valid frames: h = alpha @ u.

        Shape: `[B, N, T, T]`. Zimerman et al., arXiv:2405.16504.
        """
        places = c.valid.cumsum(1)
        distance = (places[:, :, None] - places[:, None]).clamp(min=0)[:, None]
        seen = (c.valid[:, :, None] & c.valid[:, None]).tril()[:, None]
        nu, theta, gamma = (p[:, None, None] for p in (self.nu, self.theta, self.gamma))
        size = torch.where(seen, torch.exp(gamma - nu.exp() * distance), 0)
        return torch.polar(size, theta.exp() * distance)

    def lower(self, program: Lowering, x: Value) -> Value:
        a = self.eigenvalues(torch.float64).detach().cpu()
        u = program.scaled(x, self.gamma.exp().repeat(2))
        # with what float32 leaves over: λ near 1 multiplies an error many times
        return program.emit("scan", u, size=2, weights=torch.stack([a, a - a.float()]))

    def macs(self, frames: int) -> int:
        # a complex product, and γ u
        return 6 * self.nu.numel() * frames

    def eigenvalues(self, dtype: torch.dtype) -> Tensor:
        """λ as real and imaginary parts, `[2N]`."""
        size, phase = torch.exp(-self.nu.to(dtype).exp()), self.theta.to(dtype).exp()
        return torch.cat([size * phase.cos(), size * phase.sin()])


class Gated(Elementwise):
    """y = a · sigmoid(b), a and b the halves of the channels."""

    expression = "a * sigmoid(b)"


class LRU(Recurrent):
    """y = x + a · sigmoid(b), (a, b) = W GELU(z) + bias, z = Re(C h) + D x, h = Diagonal(B x).

    Output frame o belongs to input frame o · stride. Shape: `[B, C, T]` → `[B, C, ceil(T /
    stride)]`; state as of `Diagonal`. Orvieto et al., arXiv:2303.06349, whose universality with an
    MLP is shown in arXiv:2307.11888.
    """

    undecayed = ("input",)
    self_initialized = ("input", "output")

    def __init__(
        self, channels: int, stride: int, recurrence: Diagonal, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.stride = stride
        states = len(recurrence.nu)
        self.input = Pointwise(channels, 2 * states)
        self.recurrence = recurrence
        self.output = Pointwise(2 * states, channels)
        self.direct = nn.Parameter(torch.randn(channels))
        self.gelu = nn.GELU("tanh")
        self.dropout = Dropout(dropout)
        self.gate = Pointwise(channels, 2 * channels, bias=True)
        self.gated = Gated()
        nn.init.normal_(self.input.weight, std=(2 * channels) ** -0.5)
        # the imaginary parts of h are subtracted: the sign is in the weights
        nn.init.normal_(self.output.weight, std=states**-0.5)

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        return self.recurrence.init_state(batch, self.input.channels_out(c_in), dtype, device)

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        self.check_chunk(c)
        if not c.x.shape[2]:
            return c, state
        x = Chunk(c.masked, c.valid)
        h, state = self.recurrence.step(self.input(x), state)
        shown = Chunk(h.x[:, :, :: self.stride], c.valid[:, :: self.stride])
        x = Chunk(x.x[:, :, :: self.stride], shown.valid)
        z = self.output(shown).x + self.direct[:, None] * x.x
        gates = self.gate(Chunk(self.dropout(self.gelu(z)), x.valid))
        return Chunk(x.x + self.dropout(self.gated(gates.x)), x.valid), state

    def lower(self, program: Lowering, x: Value) -> Value:
        h = program.add(self.recurrence, program.add(self.input, x))
        x = program.every(x, self.stride)
        direct = program.scaled(x, self.direct)
        z = program.matrix(h, self.output.weight, stride=self.stride, residual=direct)
        gates = program.add(self.gate, program.add(self.gelu, z))
        return program.added(program.add(self.gated, gates), x)

    def macs(self, frames: int) -> int:
        shown = -(-frames // self.stride)
        after = self.output.macs(shown) + self.direct.numel() * shown + self.gate.macs(shown)
        return self.input.macs(frames) + self.recurrence.macs(frames) + after


def lru(
    channels: int,
    kernel: int,
    stride: int,
    dilation: int,
    lookahead: LookAhead,
    states: int = 64,
    r_min: float = 0.0,
    r_max: float = 1.0,
    max_phase: float = 6.28,
    dropout: float = 0.0,
) -> LRU:
    """y = x + a · sigmoid(b), with `states` complex numbers of memory; see `LRU`.

    It reads all earlier frames, so kernel, dilation and look-ahead have no effect.
    """
    if states < 1 or not 0 <= r_min < r_max <= 1 or not 0 < max_phase <= 2 * math.pi:
        raise ComponentError(
            f"mixer lru: states={states}, radii {r_min} to {r_max}, max_phase={max_phase}; give "
            "at least 1 state, radii in order from 0 to 1 and a phase up to 2 pi"
        )
    return LRU(channels, stride, Diagonal(states, r_min, r_max, max_phase), dropout)
