"""A trellis network: an LSTM cell that is repeated over levels instead of over frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.errors import ComponentError
from speechkit.limits import MAX_WIDTH
from speechkit.nn import Chunk, DepthwiseConv, LookAhead, State, StreamLayer

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value

CELLS = {"lstm": 4, "tanh": 1}
"""The number of sums of each cell."""


class Trellis(StreamLayer):
    """Level by level, with the same weights and the input again on each, from h = c = 0:

        i, o, g, f = W [x_{t−d}; x_t] + U [h_{t−d}; h_t] + b
        c'_t = σ(f) c_{t−d} + σ(i) tanh(g),  h'_t = σ(o) tanh(c'_t)

    With `cell="tanh"` h' is the tanh of one such sum. h and c are 0 before the first frame, so a
    level whose d is longer than the recording has no memory c. y is the last `channels` of the
    `hidden` values h of the last level. The distances d are 1, 1, 2, 4, … `widest`, then 1 again,
    and y reads Σ d frames before its own. The layer is causal; `kernel`, `dilation` and `lookahead`
    have no effect. With `weight_norm` each row of W and of U is a direction and a length. Shape:
    `[B, C, T]` → `[B, C, ceil(T / stride)]`; state: the last d frames of h and c of each level, and
    of x. Bai et al., arXiv:1810.06682.
    """

    undecayed = ("scales",)

    def __init__(
        self,
        channels: int,
        kernel: int,
        stride: int = 1,
        dilation: int = 1,
        lookahead: LookAhead = 0,
        levels: int = 11,
        hidden: int | None = None,
        widest: int = 16,
        cell: str = "lstm",
        weight_norm: bool = True,
    ) -> None:
        super().__init__()
        self.hidden = channels if hidden is None else hidden
        if levels < 1 or self.hidden < channels or not 1 <= widest <= MAX_WIDTH:
            raise ComponentError(
                f"mixer trellis: levels={levels}, hidden={hidden}, widest={widest} for {channels} "
                f"channels; give at least 1 level, as many hidden values as channels or more, and "
                f"a widest distance from 1 to {MAX_WIDTH}"
            )
        if cell not in CELLS:
            raise ComponentError(f"mixer trellis: cell={cell!r}; give {' or '.join(CELLS)}")
        cycle = [1, *(2**power for power in range(widest.bit_length()))]
        self.distances = [cycle[level % len(cycle)] for level in range(levels)]
        self.channels, self.stride, self.cell = channels, stride, cell
        self.left = sum(self.distances)
        sums = CELLS[cell] * self.hidden
        self.given = nn.Parameter(0.01 * torch.randn(sums, 2 * channels))
        self.recurrent = nn.Parameter(0.01 * torch.randn(sums, 2 * self.hidden))
        self.bias = nn.Parameter(0.01 * torch.randn(sums))
        lengths = torch.stack([self.given.norm(dim=1), self.recurrent.norm(dim=1)])
        self.scales = nn.Parameter(lengths.detach()) if weight_norm else None

    def matrices(self) -> tuple[Tensor, Tensor]:
        """W `[sums, 2 · channels]` and U `[sums, 2 · hidden]`, the earlier frame first."""
        if self.scales is None:
            return self.given, self.recurrent
        given = self.scales[0, :, None] * F.normalize(self.given, dim=1)
        return given, self.scales[1, :, None] * F.normalize(self.recurrent, dim=1)

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        # h and c of the first level are 0
        kept = [d for d in self.distances[1:] for _ in range(1 if self.cell == "tanh" else 2)]
        shapes = [(max(self.distances), c_in), *((d, self.hidden) for d in kept)]
        return tuple(torch.zeros(batch, *shape, dtype=dtype, device=device) for shape in shapes)

    def forward(self, c: Chunk) -> Chunk:
        batch, channels, _ = c.x.shape
        return self._levels(c, self.init_state(batch, channels, c.x.dtype, c.x.device))[0]

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        self.check_chunk(c)
        return self._levels(c, state)

    def _levels(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        given, recurrent = self.matrices()
        x, real, frames = c.masked.transpose(1, 2), c.valid[:, :, None], c.x.shape[2]
        xs = torch.cat([state[0], x], dim=1)
        pasts, states = iter(state[1:]), [xs[:, frames:]]
        inputs = {}
        for d in set(self.distances):
            earlier = xs[:, max(self.distances) - d :][:, :frames]
            inputs[d] = F.linear(torch.cat([earlier, x], dim=2), given, self.bias)
        values: list[Tensor] = []
        for d in self.distances:
            sums, before = inputs[d], []
            if values:
                longer = [torch.cat([next(pasts), value], dim=1) for value in values]
                states += [value[:, frames:] for value in longer]
                before = [value[:, :frames] for value in longer]
                sums = sums + F.linear(torch.cat([before[0], values[0]], dim=2), recurrent)
            # autocast may have converted them to half precision
            values = [
                torch.where(real, value, 0).to(c.x.dtype) for value in self._cell(sums, before[1:])
            ]
        y = values[0][:, :: self.stride, -self.channels :].transpose(1, 2)
        return Chunk(y, c.valid[:, :: self.stride]), tuple(states)

    def _cell(self, sums: Tensor, before: list[Tensor]) -> list[Tensor]:
        """h, and the c of an LSTM, from the sums and the c of the earlier frame, if it is not 0."""
        if self.cell == "tanh":
            return [sums.tanh()]
        i, o, g, f = sums.chunk(4, 2)
        new = i.sigmoid() * g.tanh()
        for c in before:
            new = new + f.sigmoid() * c
        return [o.sigmoid() * new.tanh(), new]

    def lower(self, program: Lowering, x: Value) -> Value:
        given, recurrent = self.matrices()
        windows = {d: DepthwiseConv(1, 2, dilation=d, lookahead=0) for d in set(self.distances)}
        inputs = {
            d: program.matrix(program.unfold(x, window), given, self.bias)
            for d, window in windows.items()
        }
        earlier = torch.tensor([1.0, 0.0]).repeat(self.hidden, 1)
        h = c = None
        for d in self.distances:
            sums = inputs[d]
            if h is not None:
                sums = program.matrix(program.unfold(h, windows[d]), recurrent, residual=sums)
            if self.cell == "tanh":
                h = program.expression("tanh(x)", {}, sums)
                continue
            i, o, g, f = (program.part(sums, k * self.hidden, self.hidden) for k in range(4))
            new = program.expression("sigmoid(a) * tanh(b)", {}, i, g)
            if c is not None:
                before = program.depthwise(c, windows[d], earlier)
                new = program.added(new, program.expression("sigmoid(a) * b", {}, f, before))
            h, c = program.expression("sigmoid(a) * tanh(b)", {}, o, new), new
        assert h is not None
        y = program.part(h, self.hidden - self.channels, self.channels)
        return program.every(y, self.stride)

    def macs(self, frames: int) -> int:
        levels = len(self.distances) - 1
        each = len(set(self.distances)) * self.given.numel() + levels * self.recurrent.numel()
        return each * frames

    def extra_repr(self) -> str:
        return (
            f"{self.channels}, levels={len(self.distances)}, hidden={self.hidden}, "
            f"cell={self.cell}, stride={self.stride}, left={self.left}"
        )
