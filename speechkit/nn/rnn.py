"""LSTM and GRU over valid frames."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from speechkit.errors import ComponentError, StreamError
from speechkit.nn.stream import Chunk, Recurrent, State, StreamLayer

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value

GATES = {"lstm": 4, "gru": 3}


class Rnn(StreamLayer):
    """One layer of torch's LSTM or GRU over the valid frames only.

    `bidirectional` adds a second one that runs backwards from each row's last valid frame, so it
    needs the whole utterance. Shape: x `[B, C, T]`, y `[B, hidden, T]`, `[B, 2 · hidden, T]` if
    bidirectional; state h, and c of an LSTM, `[B, hidden]`.
    """

    left = math.inf

    def __init__(
        self, c_in: int, hidden: int, cell: str = "lstm", bidirectional: bool = False
    ) -> None:
        super().__init__()
        if cell not in GATES:
            raise ComponentError(f"cell={cell!r}; give {' or '.join(GATES)}")
        self.hidden, self.cell, self.bidirectional = hidden, cell, bidirectional
        self.right = math.inf if bidirectional else 0
        rows = GATES[cell] * hidden
        shapes = [(rows, c_in), (rows, hidden), (rows,), (rows,)] * (2 if bidirectional else 1)
        # weight_ih, weight_hh, bias_ih, bias_hh of each direction, in torch's order
        self.weights = nn.ParameterList(
            torch.empty(shape).uniform_(-(hidden**-0.5), hidden**-0.5) for shape in shapes
        )

    def matrices(self) -> list[Tensor]:
        """W_ih, W_hh, b_ih and b_hh of each direction, as torch has them: gate by gate."""
        return list(self.weights)

    def channels_out(self, c_in: int) -> int:
        return self.hidden * (2 if self.bidirectional else 1)

    def forward(self, c: Chunk) -> Chunk:
        return self._run(c, self.init_state(c.x.shape[0], 0, c.x.dtype, c.x.device))[0]

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        size = batch, self.channels_out(0)
        kept = 2 if self.cell == "lstm" else 1
        return tuple(torch.zeros(size, dtype=dtype, device=device) for _ in range(kept))

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        if self.bidirectional:
            raise StreamError(
                "a recurrence in both directions reads the whole utterance; use "
                "bidirectional=false to stream"
            )
        return self._run(c, state)

    def lower(self, program: Lowering, x: Value) -> Value:
        if self.bidirectional:
            program.refuse(f"no native {type(self).__name__} in both directions")
        given, recurrent, bias, more = (weight.detach() for weight in self.matrices())
        own: dict[str, Any] = {"bias": more} if self.cell == "gru" else {}
        sums = program.matrix(x, given, bias if own else bias + more)
        return program.emit(self.cell, sums, channels=self.hidden, weights=recurrent, **own)

    def macs(self, frames: int) -> int:
        return frames * sum(weight.numel() for weight in self.matrices() if weight.dim() == 2)

    def _run(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        if 0 in c.valid.shape:
            shape = c.x.shape[0], self.channels_out(0), c.x.shape[2]
            return Chunk(c.x.new_zeros(shape), c.valid), state
        # valid frames first, so that each row is a prefix of its length
        real = c.valid.long()
        after = c.lengths[:, None] + (1 - real).cumsum(1)
        place = torch.where(c.valid, real.cumsum(1), after)[:, :, None] - 1
        x = c.masked.transpose(1, 2)
        x = torch.zeros_like(x).scatter(1, place.expand_as(x), x)
        run = self._packed
        if torch.onnx.is_in_onnx_export():
            run = self._in_onnx
        elif self.cell == "gru" and not self.bidirectional:
            run = self._dense
        y, last = run(x, c.lengths, [self._directions(part) for part in state])
        some = c.valid.any(1)[:, None]
        state = tuple(
            torch.where(some, new.transpose(0, 1).flatten(1), old)
            for new, old in zip(last, state, strict=True)
        )
        return Chunk(y.gather(1, place.expand_as(y)).transpose(1, 2), c.valid), state

    def _dense(
        self, x: Tensor, lengths: Tensor, state: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Over the padding too, which comes last: the gradient of packed rows takes time that grows
        with the square of their length. A GRU's state is its last valid output."""
        y, _ = torch.gru(
            x, state[0], self.matrices(), True, 1, 0.0, self.training, False, batch_first=True
        )
        at = (lengths - 1).clamp(min=0)[:, None, None].expand(-1, 1, self.hidden)
        return y, [y.gather(1, at).transpose(0, 1)]

    def _packed(
        self, x: Tensor, lengths: Tensor, state: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        packed = pack_padded_sequence(
            x, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False
        )
        by_length, back = packed.sorted_indices, packed.unsorted_indices
        assert by_length is not None
        assert back is not None
        before = [part[:, by_length] for part in state]
        made, *after = self._call(packed.data, packed.batch_sizes, before)
        y, _ = nn.utils.rnn.pad_packed_sequence(
            packed._replace(data=made), batch_first=True, total_length=x.shape[1]
        )
        return y, [new[:, back] for new in after]

    def _in_onnx(
        self, x: Tensor, lengths: Tensor, state: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """ONNX's own operator, which takes the rows' lengths; packing cannot be traced."""
        order = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2)}[self.cell]
        # weight_ih, weight_hh, bias_ih, bias_hh, each [directions, gates · hidden, ...]
        wide, square, bias, more = (
            torch.stack(
                [
                    weight.unflatten(0, (-1, self.hidden))[list(order)].flatten(0, 1)
                    for weight in self.matrices()[first::4]
                ]
            )
            for first in range(4)
        )
        directions = len(wide)
        attributes: dict[str, Any] = {
            "hidden_size": self.hidden,
            "direction": "bidirectional" if self.bidirectional else "forward",
            **({"linear_before_reset": 1} if self.cell == "gru" else {}),
        }
        rows, frames, _ = x.shape
        shapes = [(frames, directions, rows, self.hidden)]
        shapes += [(directions, rows, self.hidden)] * len(state)  # type: ignore[list-item]
        given = x.transpose(0, 1), wide, square, torch.cat([bias, more], 1), lengths.int(), *state
        y, *after = torch.onnx.ops.symbolic_multi_out(
            f"::{self.cell.upper()}",
            given,
            attributes,
            dtypes=[x.dtype] * len(shapes),
            shapes=shapes,
        )
        return y.permute(2, 0, 1, 3).flatten(2), list(after)

    def _directions(self, state: Tensor) -> Tensor:
        directions: Tensor = state.unflatten(1, (-1, self.hidden)).transpose(0, 1).contiguous()
        return directions

    def _call(self, data: Tensor, sizes: Tensor, before: list[Tensor]) -> tuple[Tensor, ...]:
        fixed = True, 1, 0.0, self.training, self.bidirectional
        weights = self.matrices()
        if self.cell == "lstm":
            found: tuple[Tensor, ...] = torch.lstm(data, sizes, before, weights, *fixed)
        else:
            found = torch.gru(data, sizes, before[0], weights, *fixed)
        return found


class RnnMixer(Recurrent):
    """An `Rnn` as wide as its input, as a mixer: frame o · stride of its output is frame o.

    Shape: `[B, C, T]` → `[B, C, ceil(T / stride)]`; state: h, and c of an LSTM, `[B, C]`.
    """

    def __init__(self, channels: int, stride: int, cell: str) -> None:
        super().__init__()
        self.stride, self.rnn = stride, Rnn(channels, channels, cell)

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        return self.rnn.init_state(batch, c_in, dtype, device)

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        self.check_chunk(c)
        y, state = self.rnn.step(c, state)
        return Chunk(y.x[:, :, :: self.stride], c.valid[:, :: self.stride]), state

    def lower(self, program: Lowering, x: Value) -> Value:
        return program.every(program.add(self.rnn, x), self.stride)

    def macs(self, frames: int) -> int:
        return self.rnn.macs(frames)
