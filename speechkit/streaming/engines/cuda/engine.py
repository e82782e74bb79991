"""The engine for CUDA: it replays a graph that was captured for the number of rows and blocks.

Copies of one step overlap with the computation of the next. On the CPU the same code runs without
graphs.
"""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from speechkit.models import Model, evaluating
from speechkit.nn import StreamLayer
from speechkit.nn.states import arrays_of, in_numpy
from speechkit.ops.separable_conv import ActiveRows, Precision
from speechkit.streaming.engines.cuda.graphs import CpuQueue, CudaQueue, Queue
from speechkit.streaming.engines.cuda.ring_net import Memory, RingNet
from speechkit.streaming.waiting import Rows, Waiting

BLOCKS = 1, 2, 4
"""How many blocks of each session a step can compute; more than one if all sessions lag."""


class CudaEngine:
    """Computes blocks of the sessions in `waiting` by a `RingNet`; see `Engine`."""

    most_in_progress = 2

    def __init__(
        self,
        model: Model,
        layer: StreamLayer,
        waiting: Waiting,
        precision: Precision = "float32",
        impl: str | None = None,
    ) -> None:
        weight = next(model.parameters())
        self.model, self.waiting = model, waiting
        self.backend = "cuda" if weight.is_cuda else "torch: a pool with impl or bfloat16"
        self.stride, self.rate, self.delay = layer.stride, layer.rate, layer.delay
        self._strides = waiting.block_samples // layer.stride
        self.net = RingNet(layer, weight.dtype, precision, impl)
        capacity = len(waiting.given)
        self._memory = Memory(self.net, capacity, BLOCKS[-1] * self._strides, weight.device)
        self._queue: Queue = CudaQueue(weight.device) if weight.is_cuda else CpuQueue()
        self.bytes_each = self._memory.bytes_each
        self._captured: dict[tuple[int, int, int], CapturedStep] = {}
        self._steps = 0

    def most(self, blocks: int) -> int:
        return power_of_two(min(BLOCKS[-1], blocks))

    def make_ready(self, sessions: int) -> None:
        sizes = (2**n for n in range(sessions.bit_length() + 1))
        for size, blocks, side in product(sizes, BLOCKS, range(2)):
            if size <= 2 * sessions - 1:
                self._capture(size, blocks, side)

    def step(self, rows: Rows, blocks: int) -> "Pending":
        x, real = self.waiting.take(rows, blocks)
        self._steps += 1
        captured = self._capture(power_of_two(2 * len(rows) - 1), blocks, self._steps % 2)
        with evaluating(self.model):
            wait = captured.run(rows, x, real)
        return Pending(captured, wait, len(rows), blocks)

    def reset(self, rows: Rows) -> None:
        new = torch.from_numpy(rows).to(self._memory.counts.device)
        self._queue.now(lambda: self._memory.reset(new))

    @torch.inference_mode()
    def state(self, row: int) -> dict[str, NDArray[Any]]:
        return arrays_of(tuple(x[row] for x in self._memory.tensors()))

    @torch.inference_mode()
    def restore(self, row: int, state: dict[str, NDArray[Any]]) -> None:
        for x, array in zip(self._memory.tensors(), state.values(), strict=True):
            x[row] = torch.from_numpy(array).to(x)

    def _capture(self, rows: int, blocks: int, side: int) -> "CapturedStep":
        """The captured step for so many rows and blocks; two alternate, so that copies overlap."""
        key = rows, blocks, side
        if key not in self._captured:
            with evaluating(self.model):
                strides = blocks * self._strides
                self._captured[key] = CapturedStep(
                    self.net, self._memory, self._queue, rows, strides
                )
        return self._captured[key]


class CapturedStep:
    """A step of at most `rows` sessions over `strides` strides, prepared once."""

    def __init__(self, net: RingNet, memory: Memory, queue: Queue, rows: int, strides: int) -> None:
        device, frames = memory.counts.device, strides * net.rate
        given = {
            "x": torch.zeros(rows, strides * net.stride),
            "real": torch.zeros(rows, dtype=torch.int64),
            "slots": torch.full((rows,), -1),
        }
        made = {
            "y": torch.zeros(rows, frames, net.channels, dtype=net.dtype),
            "valid": torch.zeros(rows, frames, dtype=torch.bool),
        }
        there = {name: x.to(device, copy=True) for name, x in {**given, **made}.items()}
        if device.type == "cuda":
            given, made = ({n: x.pin_memory() for n, x in d.items()} for d in (given, made))
        self.here = {**given, **made}
        self._given = [(given[name], there[name]) for name in given]
        self._made = [(there[name], made[name]) for name in made]
        self._queue = queue
        active = ActiveRows(there["slots"], memory.counts, strides)

        def work() -> None:
            y = net.step(memory, active, there["x"], there["real"])
            # into memory that no other graph writes
            there["y"].copy_(y.x.transpose(1, 2))
            there["valid"].copy_(y.valid)

        self._work = queue.capture(work)

    def run(
        self, rows: Rows, x: NDArray[np.float32], real: NDArray[np.int64]
    ) -> Callable[[], None]:
        """Starts a step of `rows` over x `[n, N]`; returns a function that waits for its end."""
        here, n = self.here, len(rows)
        here["x"][:n] = torch.from_numpy(x)
        for name, values, nobody in (("real", real, 0), ("slots", rows, -1)):
            here[name][:n] = torch.from_numpy(values)
            here[name][n:] = nobody
        return self._queue.run(self._given, self._work, self._made)


class Pending:
    """The scores of a step in progress; reading them waits for its end."""

    def __init__(
        self, captured: CapturedStep, wait: Callable[[], None], rows: int, blocks: int
    ) -> None:
        self._captured, self._wait, self._rows, self._blocks = captured, wait, rows, blocks

    @property
    def scores(self) -> NDArray[Any]:
        """`[n, blocks, T, C]`."""
        return self._made("y")

    @property
    def valid(self) -> NDArray[np.bool_]:
        """`[n, blocks, T]`."""
        return self._made("valid")

    def _made(self, name: str) -> NDArray[Any]:
        self._wait()
        x = in_numpy(self._captured.here[name][: self._rows])
        return x.reshape(self._rows, self._blocks, -1, *x.shape[2:])


def power_of_two(at_most: int) -> int:
    """The largest power of two up to a number."""
    return 1 << (at_most.bit_length() - 1)
