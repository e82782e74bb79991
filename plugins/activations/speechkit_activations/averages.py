"""Functions of a value and the mean of its utterance. Shape of all: `[B, C, T]` → the same.

Each has two forms: the mean is over the whole utterance, or over all frames up to the current one.
The second form streams; at the last frame both are the same.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from speechkit.errors import StreamError
from speechkit.nn import (
    AveragePool,
    Chunk,
    Elementwise,
    Recurrent,
    RunningAverage,
    State,
    StreamLayer,
)

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value


class ABReLU(StreamLayer):
    """y = max(x − beta · m, 0), m the mean of x over valid frames and channels.

    The average-biased ReLU. The survey's code averages over the whole batch. Here m is the mean of
    each utterance, so that it does not depend on the rest of the batch. Dubey et al.,
    arXiv:2109.14545.
    """

    left = right = math.inf

    def __init__(self, channels: int, beta: float = 1.0) -> None:
        super().__init__()
        self.beta = beta
        self.average = AveragePool()

    def forward(self, c: Chunk) -> Chunk:
        return _biased(c, self.average(c).x, self.beta)

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        raise _whole("abrelu")


class RunningABReLU(Recurrent):
    """ABReLU with the mean over all valid frames up to the current one."""

    def __init__(self, channels: int, beta: float = 1.0) -> None:
        super().__init__()
        self.beta = beta
        self.average = RunningAverage()

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        return self.average.init_state(batch, c_in, dtype, device)

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        mean, state = self.average.step(c, state)
        return _biased(c, mean.x, self.beta), state

    def lower(self, program: Lowering, x: Value) -> Value:
        share = torch.full((x.channels, x.channels), 1 / x.channels)
        mean = program.matrix(program.add(self.average, x), share)
        return program.expression("max(a - beta * b, 0)", {"beta": self.beta}, x, mean)


class LinearDC(StreamLayer):
    """y = x / 2 + m / 2 with m[c] the mean of |x| over valid frames: ReLU without harmonics.

    ReLU(x) is x / 2 + |x| / 2. This keeps the linear part and the constant part of |x|, so the mean
    over time is that of ReLU. This interpretation of "linear + DC" is ours. Kechris et al.,
    arXiv:2407.16556.
    """

    left = right = math.inf

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.average = AveragePool()

    def forward(self, c: Chunk) -> Chunk:
        return _lifted(c, self.average(_absolute(c)).x)

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        raise _whole("linear_dc")


class RunningLinearDC(Recurrent):
    """LinearDC with the mean over all valid frames up to the current one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.average = RunningAverage()

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        return self.average.init_state(batch, c_in, dtype, device)

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        mean, state = self.average.step(_absolute(c), state)
        return _lifted(c, mean.x), state

    def lower(self, program: Lowering, x: Value) -> Value:
        mean = program.add(self.average, program.expression("abs(x)", {}, x))
        return program.expression("0.5 * a + 0.5 * b", {}, x, mean)


class HalfLinear(Elementwise):
    """y = x / 2: ReLU without |x| / 2, to compare `linear_dc` with. arXiv:2407.16556."""

    expression = "0.5 * x"

    def __init__(self, channels: int) -> None:
        super().__init__()


def _biased(c: Chunk, mean: Tensor, beta: float) -> Chunk:
    return Chunk(torch.relu(c.x - beta * mean.mean(1, keepdim=True)), c.valid)


def _absolute(c: Chunk) -> Chunk:
    return Chunk(c.x.abs(), c.valid)


def _lifted(c: Chunk, mean: Tensor) -> Chunk:
    return Chunk(0.5 * c.x + 0.5 * mean, c.valid)


def _whole(name: str) -> StreamError:
    return StreamError(
        f"activation {name!r} reads the whole utterance; use activation '{name}_running' to stream"
    )
