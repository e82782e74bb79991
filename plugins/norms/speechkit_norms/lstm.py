"""An LSTM with a norm in each of its sums."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from speechkit.nn import Chunk, LookAhead, Recurrent, State

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value


class LayerNormLSTM(Recurrent):
    """An LSTM whose products and cell are normalised in every frame.

        i, f, g, o = LN(W x_t) + LN(U h_{t−1}) + b
        c_t = σ(f) c_{t−1} + σ(i) tanh(g)
        h_t = σ(o) tanh(LN(c_t))

    Each LN has its own weight; the two biases that would only add to b are left out. An invalid
    frame leaves the state unchanged. Output frame o belongs to input frame o · stride. The layer
    computes frame by frame, so it is much slower than torch's LSTM. Shape: x `[B, C, T]`, y
    `[B, hidden, ceil(T / stride)]`, state h and c `[B, hidden]`, rows of W, U and b in torch's
    order. Ba et al., arXiv:1607.06450.
    """

    undecayed = ("input_norm", "recurrent_norm", "cell_norm")

    def __init__(self, c_in: int, hidden: int, stride: int = 1, eps: float = 1e-5) -> None:
        super().__init__()
        self.hidden, self.stride = hidden, stride
        self.input = nn.Linear(c_in, 4 * hidden, bias=False)
        self.recurrent = nn.Linear(hidden, 4 * hidden, bias=False)
        self.bias = nn.Parameter(torch.zeros(4 * hidden))
        self.input_norm: nn.Module = nn.LayerNorm(4 * hidden, eps, bias=False)
        self.recurrent_norm: nn.Module = nn.LayerNorm(4 * hidden, eps, bias=False)
        self.cell_norm: nn.Module = nn.LayerNorm(hidden, eps)

    def channels_out(self, c_in: int) -> int:
        return self.hidden

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        return tuple(torch.zeros(batch, self.hidden, dtype=dtype, device=device) for _ in "hc")

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        self.check_chunk(c)
        h, cell = state
        given = self.input_norm(self.input(c.masked.transpose(1, 2))) + self.bias
        outputs = []
        for frame, valid in zip(given.unbind(1), c.valid.unbind(1), strict=True):
            i, f, g, o = (frame + self.recurrent_norm(self.recurrent(h))).chunk(4, 1)
            new = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            out = o.sigmoid() * self.cell_norm(new).tanh()
            real = valid[:, None]
            # autocast may have converted them to half precision
            h = torch.where(real, out.to(h.dtype), h)
            cell = torch.where(real, new.to(cell.dtype), cell)
            outputs.append(h)
        y = torch.stack(outputs[:: self.stride], dim=1) if outputs else given[:, :, : self.hidden]
        return Chunk(y.transpose(1, 2), c.valid[:, :: self.stride]), (h, cell)

    def lower(self, program: Lowering, x: Value) -> Value:
        given, recurrent, cell = self.input_norm, self.recurrent_norm, self.cell_norm
        if (
            not isinstance(given, nn.LayerNorm)
            or not isinstance(recurrent, nn.LayerNorm)
            or not isinstance(cell, nn.LayerNorm)
        ):
            program.refuse(f"no native {type(self).__name__} with other norms")
        sums = program.matrix(x, self.input.weight)
        return program.emit(
            "lstm",
            program.normalize(sums, given.eps, given.weight, self.bias),
            rows=x.rows // self.stride,
            channels=self.hidden,
            stride=self.stride,
            size=1,
            weights=self.recurrent.weight.detach(),
            filters=recurrent.weight.detach(),
            bias=torch.stack([cell.weight, cell.bias]).detach(),
            numbers=[recurrent.eps],
        )


def ln_lstm(
    channels: int,
    kernel: int,
    stride: int,
    dilation: int,
    lookahead: LookAhead,
    eps: float = 1e-5,
) -> LayerNormLSTM:
    """The LSTM as a mixer; it is causal with unlimited memory, so `kernel`, `dilation` and
    `lookahead` have no effect."""
    return LayerNormLSTM(channels, channels, stride, eps)
