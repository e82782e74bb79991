"""An LSTM without connections between its units, and real-time recurrent learning of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from speechkit.errors import ComponentError
from speechkit.nn import Chunk, LookAhead, Recurrent, State

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value

STD = 0.1
"""The deviation of all first weights."""
OPEN = 100.0
"""The input of a GRU's reset gate at which the gate is 1."""


class Elstm(Recurrent):
    """c_t = f_t c_{t−1} + (1 − f_t) z_t, z = tanh(W_z x + w_z c_{t−1} + b_z), f = σ(W_f x + …).

    w_z and w_f are vectors: a unit reads its own past only. With `learn="rtrl"` the backward pass
    keeps no frames but the input's: it goes forwards with the derivatives of c in the weights. Its
    gradient of the weights is exact; that of the input is the part through its own frame. Output
    frame o belongs to input frame o · stride. Shape: `[B, C, T]` → `[B, C, ceil(T / stride)]`;
    weight `[2C, C]`, own and bias `[2, C]`, each z then f; state c `[B, C]`, float32 at least.
    Irie et al., arXiv:2305.19044.
    """

    self_initialized = ("weight",)

    def __init__(self, channels: int, stride: int, learn: str, forget_bias: float) -> None:
        super().__init__()
        self.stride, self.learn = stride, learn
        self.weight = nn.Parameter(STD * torch.randn(2 * channels, channels))
        self.own = nn.Parameter(STD * torch.randn(2, channels))
        bias = torch.tensor([[0.0], [forget_bias]])
        self.bias = nn.Parameter(STD * torch.randn(2, channels) + bias)

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        wide = torch.promote_types(dtype, torch.float32)
        return (torch.zeros(batch, c_in, dtype=wide, device=device),)

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        self.check_chunk(c)
        if not c.x.shape[2]:
            return c, state
        (before,) = state
        x = c.masked.transpose(1, 2).to(before.dtype)
        weights = [p.to(before.dtype) for p in (self.weight, self.own, self.bias)]
        if self.learn == "rtrl":
            cells: Tensor = _Online.apply(x, c.valid, before, *weights)  # type: ignore[no-untyped-call]
        else:
            cells = torch.stack(list(_run(x, c.valid, before, *weights)), dim=1)
        y = cells[:, :: self.stride].to(c.x.dtype).transpose(1, 2)
        return Chunk(y, c.valid[:, :: self.stride]), (cells[:, -1].clone(),)

    def lower(self, program: Lowering, x: Value) -> Value:
        # a GRU with diagonal weights of its past, and an open reset gate
        z, f = self.weight.detach().chunk(2)
        own_z, own_f = self.own.detach()
        bias_z, bias_f = self.bias.detach()
        zero = torch.zeros_like(z)
        sums = torch.cat([torch.full_like(bias_z, OPEN), bias_f, bias_z])
        return program.emit(
            "gru",
            program.matrix(x, torch.cat([zero, f, z]), sums),
            rows=x.rows // self.stride,
            channels=x.channels,
            stride=self.stride,
            weights=torch.cat([zero, own_f.diag(), own_z.diag()]),
            bias=torch.zeros(3 * x.channels),
        )

    def macs(self, frames: int) -> int:
        # the maps, both products with c, and the mean
        return (self.weight.numel() + 2 * self.own.numel()) * frames


def _frame(
    x: Tensor, c: Tensor, weight: Tensor, own: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """z and f of a frame x `[B, C]`, both `[B, C]`."""
    z, f = (x @ weight.T).chunk(2, 1)
    return torch.tanh(z + own[0] * c + bias[0]), torch.sigmoid(f + own[1] * c + bias[1])


def _run(
    x: Tensor, valid: Tensor, c: Tensor, weight: Tensor, own: Tensor, bias: Tensor
) -> Iterator[Tensor]:
    """c after each frame of x `[B, T, C]`; an invalid one leaves it as it is."""
    for frame, real in zip(x.unbind(1), valid.unbind(1), strict=True):
        z, f = _frame(frame, c, weight, own, bias)
        c = torch.where(real[:, None], f * c + (1 - f) * z, c)
        yield c


class _Online(torch.autograd.Function):
    """`_run`; its gradient is Σ_t dL/dc_t · dc_t/dw, with the derivatives S = dc_t/dw carried on.

    S_t = J S_{t−1} + (dc_t/dw at a fixed c_{t−1}), J = f + a w_z + b w_f, where a = (1 − f)(1 − z²)
    and b = (c_{t−1} − z) f (1 − f).
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        valid: Tensor,
        c: Tensor,
        weight: Tensor,
        own: Tensor,
        bias: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(x, valid, c, weight, own, bias)
        return torch.stack(list(_run(x, valid, c, weight, own, bias)), dim=1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor | None, ...]:
        x, valid, c, weight, own, bias = ctx.saved_tensors
        channels = c.shape[1]
        # of each row: dc/dW_z and dc/dW_f [B, 2, C, C], and the same for w and b [B, 2, 2, C]
        by_weight = x.new_zeros(len(x), 2, channels, channels)
        by_others = x.new_zeros(len(x), 2, 2, channels)
        of_weight, of_others = torch.zeros_like(weight), x.new_zeros(2, 2, channels)
        of_x = torch.zeros_like(x)
        for t, (frame, real) in enumerate(zip(x.unbind(1), valid.unbind(1), strict=True)):
            z, f = _frame(frame, c, weight, own, bias)
            a = torch.where(real[:, None], (1 - f) * (1 - z * z), 0)
            b = torch.where(real[:, None], (c - z) * f * (1 - f), 0)
            kept = torch.where(real[:, None], f, 1) + a * own[0] + b * own[1]
            through = torch.stack([a, b], dim=1)
            by_weight.mul_(kept[:, None, :, None])
            by_weight.addcmul_(through[..., None], frame[:, None, None])
            read = torch.stack([c, torch.ones_like(c)], dim=1)
            by_others.mul_(kept[:, None, None]).add_(read[:, :, None] * through[:, None])
            g = given[:, t]
            of_weight += torch.einsum("bn,bgnd->gnd", g, by_weight).flatten(0, 1)
            of_others += torch.einsum("bn,bign->ign", g, by_others)
            of_x[:, t] = (g[:, None] * through).flatten(1) @ weight
            c = torch.where(real[:, None], f * c + (1 - f) * z, c)
        return of_x, None, None, of_weight, of_others[0], of_others[1]


def elstm(
    channels: int,
    kernel: int,
    stride: int,
    dilation: int,
    lookahead: LookAhead,
    learn: str = "bptt",
    forget_bias: float = 0.0,
) -> Elstm:
    """c_t = f_t c_{t−1} + (1 − f_t) z_t; see `Elstm`.

    It reads all earlier frames, so kernel, dilation and look-ahead have no effect.
    """
    if learn not in ("bptt", "rtrl"):
        raise ComponentError(f"mixer elstm: learn={learn!r}; give bptt or rtrl")
    return Elstm(channels, stride, learn, forget_bias)
