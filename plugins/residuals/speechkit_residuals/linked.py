"""Layers in series that read all earlier outputs, aligned in time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from speechkit.errors import ComponentError
from speechkit.nn import Chunk, Delay, Serial, State, StreamLayer, fuse

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value

T = TypeVar("T")


class Linked(StreamLayer):
    """Layers in series; each may read all earlier outputs and add them to its output.

        x_i = into(i, history)          the input of layer i
        h_i = out_of(i, layer_i(x_i), history)

    `history` holds the input and the earlier outputs, aligned in time and of one stride. In a
    stream an output is delayed by the delay of the layers that it skips. If one of these has a
    stride, the output is averaged over it. Layers are named 0, 1, … as in `Serial`, so that a plain
    net's weights fit.
    """

    keeps_input = True
    """Whether the history after the first layer contains the input."""

    def __init__(self, layers: list[StreamLayer], repeats: int = 1) -> None:
        super().__init__()
        if not layers or any(layer.rate != 1 for layer in layers):
            raise ComponentError(f"{type(self).__name__} takes layers that do not upsample")
        for index, layer in enumerate(layers):
            self.add_module(str(index), layer)
        self.count, self.repeats = len(layers), repeats
        row = Serial(*self.calls())
        self.stride, self.delay, self.left, self.right = row.stride, row.delay, row.left, row.right
        self.waits = tuple(wait or Delay(0) for wait in row.waits)
        self.carries = tuple(_carry(layer) for layer in self.calls())

    def calls(self) -> list[StreamLayer]:
        """The layers in the order in which they run; the whole list is repeated `repeats` times."""
        layers = [self.get_submodule(str(index)) for index in range(self.count)]
        return layers * self.repeats  # type: ignore[return-value]

    def into(self, index: int, history: list[Chunk]) -> Tensor:
        """The input of layer `index`; `history` ends with the latest output."""
        return history[-1].x

    def out_of(self, index: int, y: Chunk, history: list[Chunk]) -> Tensor:
        """The new output from the output `y` of layer `index`; `history` ends before it."""
        return y.x

    def lower_into(self, program: Lowering, index: int, history: list[Value]) -> Value:
        """Adds `into` to a native program."""
        return history[-1]

    def lower_out_of(self, program: Lowering, index: int, y: Value, history: list[Value]) -> Value:
        """Adds `out_of` to a native program."""
        return y

    def forgets(self, index: int) -> bool:
        """True if the layers after layer `index` read no output earlier than its own."""
        return False

    def width_into(self, index: int, widths: list[int]) -> int:
        """The number of channels of `into`, given those of the history."""
        return widths[-1]

    def width_out(self, index: int, width: int, widths: list[int]) -> int:
        """The number of channels of `out_of`, given those of the layer's output."""
        return width

    def channels_out(self, c_in: int) -> int:
        return self._follow(c_in, lambda layer, width: None)

    def forward(self, c: Chunk) -> Chunk:
        return self._run(c, lambda layer, x: layer(x))

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        states: list[State] = []
        self._follow(
            c_in, lambda layer, w: states.append(layer.init_state(batch, w, dtype, device))
        )
        return tuple(states)

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        self.check_chunk(c)
        before, after = iter(state), []

        def call(layer: StreamLayer, x: Chunk) -> Chunk:
            y, new = layer.step(x, next(before))
            after.append(new)
            return y

        y = self._run(c, call)
        return y, tuple(after)

    def lower(self, program: Lowering, x: Value) -> Value:
        program.require(self, "lower_into", "into")
        program.require(self, "lower_out_of", "out_of")
        history = [x]
        for index, layer in enumerate(self.calls()):
            history = [program.add(self.waits[index], h) for h in history]
            y = program.add(fuse(layer), self.lower_into(program, index, history))
            history = [program.add(self.carries[index], h) for h in self._kept(index, history)]
            history.append(self.lower_out_of(program, index, y, history))
            history = history[-1:] if self.forgets(index) else history
        return history[-1]

    def _run(self, c: Chunk, call: Callable[[StreamLayer, Chunk], Chunk]) -> Chunk:
        history = [c]
        for index, layer in enumerate(self.calls()):
            history = [call(self.waits[index], h) for h in history]
            y = call(layer, Chunk(self.into(index, history), history[-1].valid))
            history = [call(self.carries[index], h) for h in self._kept(index, history)]
            history.append(Chunk(self.out_of(index, y, history), y.valid))
            history = history[-1:] if self.forgets(index) else history
        return history[-1]

    def _follow(self, c_in: int, call: Callable[[StreamLayer, int], None]) -> int:
        """Visits each layer in the order of `_run`, with the number of channels that it reads."""
        history = [c_in]
        for index, layer in enumerate(self.calls()):
            for width in history:
                call(self.waits[index], width)
            given = self.width_into(index, history)
            call(layer, given)
            history = self._kept(index, history)
            for width in history:
                call(self.carries[index], width)
            out = self.width_out(index, layer.channels_out(given), history)
            history = [out] if self.forgets(index) else [*history, out]
        return history[-1]

    def _kept(self, index: int, history: list[T]) -> list[T]:
        return history if index or self.keeps_input else []


class StrideMean(StreamLayer):
    """Means of the valid frames of each stride. Shape: `[B, C, T]` → `[B, C, T / stride]`.

    If an utterance ends within a stride, the remaining frames give one more.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.right = stride - 1

    def forward(self, c: Chunk) -> Chunk:
        missing = -c.x.shape[2] % self.stride
        x = torch.nn.functional.pad(c.masked.transpose(1, 2), (0, 0, 0, missing))
        valid = torch.nn.functional.pad(c.valid, (0, missing)).unflatten(1, (-1, self.stride))
        total = x.unflatten(1, (-1, self.stride)).sum(2)
        mean = total / valid.sum(2).clamp(min=1)[:, :, None]
        return Chunk(mean.to(c.x.dtype).transpose(1, 2), valid[:, :, 0])

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        self.check_chunk(c)
        return self.forward(c), state

    def lower(self, program: Lowering, x: Value) -> Value:
        rows, stride = x.rows // self.stride, self.stride
        return program.emit("sliding_average", x, rows=rows, taps=stride, stride=stride)


def _carry(layer: StreamLayer) -> StreamLayer:
    """The delay and average that align an earlier output with the output of a layer."""
    wait = Delay(layer.delay)
    return wait if layer.stride == 1 else Serial(StrideMean(layer.stride), wait)
