"""What layers lower themselves with, each helper and instruction in a layer of its own."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from speechkit.errors import ConfigError
from speechkit.native.libraries import load
from speechkit.nn import Chunk, Conv, FrameWise, Recurrent, State, StreamLayer, scan
from speechkit.nn.lowering import Lowering
from speechkit.plans.engine import SOURCE, LoadedPlan, Steps
from speechkit.plans.program import LoweringError, Value
from speechkit.testing import check_native

pytestmark = pytest.mark.skipif(isinstance(load(SOURCE), str), reason="there is no C++ compiler")
CHANNELS = 22
VECTOR = torch.linspace(-1.5, 2, CHANNELS)
MATRIX = torch.randn(CHANNELS, CHANNELS, generator=torch.Generator().manual_seed(0))

Frames = Callable[[Tensor], Tensor]
Lower = Callable[[Lowering, Value], Value]


class Rows(torch.nn.Module):
    """A function of frames `[B, T, C]`, and how it is lowered."""

    def __init__(self, function: Frames, lower: Lower) -> None:
        super().__init__()
        self.function, self.lower = function, lower

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x.transpose(1, 2)).transpose(1, 2)


def mixed(x: Tensor) -> Tensor:
    scores, values = torch.stack([x * 3, x.cos()]), torch.stack([x, 2 * x])
    return (scores.softmax(0) * values).sum(0)


def signs(x: Tensor) -> Tensor:
    return torch.where(x >= 0, torch.ones_like(x), -torch.ones_like(x))


def lower_mixed(program: Lowering, x: Value) -> Value:
    scores = program.scaled(x, 3.0), program.expression("cos(x)", {}, x)
    return program.attended(list(scores), [x, program.scaled(x, 2.0)])


FRAMES: dict[str, tuple[Frames, Lower]] = {
    "scaled": (lambda x: x * VECTOR.to(x), lambda p, x: p.scaled(x, VECTOR)),
    "part": (lambda x: x[..., 3:20], lambda p, x: p.part(x, 3, 17)),
    "beyond": (
        lambda x: torch.cat([x[..., 20:], torch.zeros_like(x[..., :9])], dim=2),
        lambda p, x: p.part(x, 20, 11),
    ),
    "join": (
        lambda x: torch.cat([x, x[..., :5], x * 2], dim=2),
        lambda p, x: p.join(x, p.part(x, 0, 5), p.scaled(x, 2.0)),
    ),
    "repeat": (lambda x: x.repeat(1, 1, 3), lambda p, x: p.repeat(x, 3)),
    "fold": (lambda x: x[..., :11] + x[..., 11:], lambda p, x: p.fold(x, 2)),
    "largest": (
        lambda x: x.amax(2, keepdim=True).expand_as(x),
        lambda p, x: p.emit("largest", x),
    ),
    "normalize": (
        lambda x: (x - x.mean(2, keepdim=True)) / (x.std(2, False, keepdim=True) + 0.1),
        lambda p, x: p.normalize(x, 0.1, outside=True),
    ),
    "groups": (
        lambda x: torch.nn.functional.layer_norm(x.unflatten(2, (2, 11)), (11,)).flatten(2),
        lambda p, x: p.normalize(x, 1e-5, groups=2),
    ),
    "counted": (
        lambda x: x * torch.rsqrt(x[..., :7].square().mean(2, keepdim=True) + 0.2) * VECTOR.to(x),
        lambda p, x: p.normalize(x, 0.2, VECTOR, counted=7, centred=False),
    ),
    "residual": (
        lambda x: x @ MATRIX.to(x).t() + VECTOR.to(x) + x,
        lambda p, x: p.matrix(x, MATRIX, VECTOR, residual=x),
    ),
    "expression": (
        lambda x: x.sigmoid() * (x + VECTOR.to(x)).cos(),
        lambda p, x: p.expression(
            "sigmoid(a) * cos(b)", {}, x, p.expression("x + v", {"v": VECTOR}, x)
        ),
    ),
    "attended": (mixed, lower_mixed),
    "binary": (
        lambda x: signs(x + VECTOR.to(x)) @ signs(MATRIX).to(x).t() * VECTOR.to(x),
        lambda p, x: p.binary(x, VECTOR, MATRIX, VECTOR),
    ),
}


@pytest.mark.parametrize("name", FRAMES)
def test_a_helper_computes_what_torch_does(name: str) -> None:
    module = Rows(*FRAMES[name])
    x = torch.randn(2, CHANNELS, 7, generator=torch.Generator().manual_seed(1))
    wide = module(x).shape[1]
    check_native(FrameWise(module, wide), x, torch.tensor([7, 4]))


class Windows(Conv):
    """The frames that a convolution reads, side by side."""

    def channels_out(self, c_in: int) -> int:
        return self.kernel * c_in

    def convolve(self, window: Tensor) -> Tensor:
        frames = window.transpose(1, 2).unfold(1, self.span, self.stride)
        return frames[..., :: self.dilation].transpose(2, 3).flatten(2).transpose(1, 2)

    def lower(self, program: Lowering, x: Value) -> Value:
        return program.unfold(x, self)


@pytest.mark.parametrize("shape", [(3, 1, 1, 1), (4, 2, 3, 2), (1, 3, 1, 0)])
def test_windows_are_unfolded(shape: tuple[int, int, int, int]) -> None:
    x = torch.randn(2, 5, 23, generator=torch.Generator().manual_seed(1))
    check_native(Windows(*shape), x, torch.tensor([23, 10]))


class Rotating(Recurrent):
    """h_t = a h_{t−1} + x_t, complex: the first half of the channels is real."""

    def __init__(self, channels: int, constant: bool) -> None:
        super().__init__()
        self.constant = constant
        angle = torch.linspace(0, 3, channels // 2)
        self.register_buffer("a", torch.cat([0.9 * angle.cos(), 0.9 * angle.sin()]))

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        return (torch.zeros(batch, c_in, dtype=dtype),)

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        real = c.valid[:, :, None]
        a = torch.where(real, complex_of(self.get_buffer("a")), 1)
        h = scan(a, complex_of(c.masked.transpose(1, 2)), complex_of(state[0]))
        y = torch.cat([h.real, h.imag], dim=2)
        return Chunk(y.transpose(1, 2), c.valid), (y[:, -1],)

    def lower(self, program: Lowering, x: Value) -> Value:
        a = self.get_buffer("a")
        if self.constant:
            whole = a.double()
            return program.emit(
                "scan", x, size=2, weights=torch.stack([whole, whole - whole.float()])
            )
        each = program.affine(x, torch.zeros(x.channels), a)
        return program.emit("scan", x, other=each, size=2)


def complex_of(x: Tensor) -> Tensor:
    return torch.complex(*x.chunk(2, dim=-1))


@pytest.mark.parametrize("channels", [10, 74])
@pytest.mark.parametrize("constant", [True, False])
def test_a_scan_may_be_complex(channels: int, constant: bool) -> None:
    x = torch.randn(2, channels, 40, generator=torch.Generator().manual_seed(1))
    check_native(Rotating(channels, constant), x, torch.tensor([40, 17]))


def test_a_constant_of_a_scan_is_not_rounded_to_float32() -> None:
    layer = Rotating(16, constant=True).double()
    layer.get_buffer("a").mul_(0.9995 / 0.9)
    x = torch.randn(1, 16, 4000, generator=torch.Generator().manual_seed(1))
    check_native(layer, x, strides=(1000,))


HEADS, KEYS, VALUES = 2, 6, 5


class Retained(Recurrent):
    """o = Re(S q̄) with S = a S + v kᵀ in each head: q and k, of pairs, and v are the channels."""

    a = torch.polar(torch.linspace(0.9, 1, HEADS * KEYS // 2), torch.linspace(-2, 0, 6))

    def channels_out(self, c_in: int) -> int:
        return HEADS * VALUES

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        return (torch.zeros(batch, HEADS, VALUES, KEYS // 2, dtype=dtype.to_complex()),)

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        real = c.valid[:, :, None, None, None]
        x = c.masked.transpose(1, 2)
        q, k = (
            complex_of(part.unflatten(2, (HEADS, 1, KEYS)))
            for part in x[..., : 2 * HEADS * KEYS].chunk(2, dim=2)
        )
        v = x[..., 2 * HEADS * KEYS :].unflatten(2, (HEADS, VALUES, 1))
        a = torch.where(real, self.a.view(HEADS, 1, -1).to(k.dtype), 1)
        memory = scan(a, v * k, state[0])
        o = (memory * q.conj()).real.sum(4)
        return Chunk(o.flatten(2).transpose(1, 2), c.valid), (memory[:, -1],)

    def lower(self, program: Lowering, x: Value) -> Value:
        decay = torch.stack([self.a.real, self.a.imag]).flatten()
        rest = torch.zeros_like(decay)
        return program.emit(
            "retention",
            x,
            channels=HEADS * VALUES,
            size=HEADS,
            taps=KEYS,
            weights=torch.cat([decay, rest]),
        )


def test_a_plan_with_retention_equals_the_recurrence() -> None:
    channels = HEADS * (2 * KEYS + VALUES)
    x = torch.randn(2, channels, 40, generator=torch.Generator().manual_seed(1))
    check_native(Retained(), x, torch.tensor([40, 17]))


class Attended(Recurrent):
    """o = Σ (q · k) v / (Σ q · k + 0.1) over the frames so far, with positive q and k."""

    def channels_out(self, c_in: int) -> int:
        return HEADS * VALUES

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        return (torch.zeros(batch, HEADS, VALUES + 1, KEYS, dtype=dtype),)

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        x = c.masked.transpose(1, 2)
        q, k = x[..., : 2 * HEADS * KEYS].abs().unflatten(2, (2, HEADS, 1, KEYS)).unbind(2)
        v = x[..., 2 * HEADS * KEYS :].unflatten(2, (HEADS, VALUES, 1))
        v = torch.cat([v, torch.ones_like(v[..., :1, :])], dim=3)
        sums = scan(torch.ones_like(x[:, :, :1, None, None]), v * k, state[0])
        o = (sums * q).sum(4)
        y = (o[..., :-1] / (o[..., -1:] + 0.1)).flatten(2)
        return Chunk(y.transpose(1, 2), c.valid), (sums[:, -1],)

    def lower(self, program: Lowering, x: Value) -> Value:
        keys, values = 2 * HEADS * KEYS, HEADS * VALUES
        positive = program.expression("abs(x)", {}, program.part(x, 0, keys))
        return program.emit(
            "linear_attention",
            program.join(positive, program.part(x, keys, values)),
            channels=values,
            size=HEADS,
            taps=KEYS,
            numbers=[0.1, False],
        )


def test_a_plan_with_linear_attention_equals_its_formula() -> None:
    channels = HEADS * (2 * KEYS + VALUES)
    x = torch.randn(2, channels, 40, generator=torch.Generator().manual_seed(1))
    check_native(Attended(), x, torch.tensor([40, 17]))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"size": 3}, "its channels do not divide by its heads"),
        ({"taps": 5}, "its input's channels are not queries, keys and values"),
        ({"size": 1, "taps": 13, "channels": 8}, "its keys are not pairs"),
        ({"weights": [0.5] * 20}, "it lies outside the weights"),
        ({"rows": 2}, "its rows differ from its input's"),
    ],
)
def test_retention_of_wrong_sizes_is_refused(fields: dict[str, Any], reason: str) -> None:
    program = Lowering()
    x = program.input(1, HEADS * (2 * KEYS + VALUES))
    given = {"channels": 10, "size": HEADS, "taps": KEYS, "weights": [0.5] * 24, **fields}
    program.emit("retention", x, **given)
    with pytest.raises(ConfigError, match=f"retention 0: {reason}"):
        LoadedPlan(program.table, program.weights.array, 1, x.channels, 1)


def test_frames_of_a_block_may_leave_as_they_came() -> None:
    program = Lowering()
    memory = torch.zeros(1, 2)
    y = program.blocks(program.input(1, 3), 4, memory, lambda _, block, kept: (block, kept))
    plan = LoadedPlan(program.table, program.weights.array, 1, 3, 1)
    steps, x = Steps(plan, plan.new_states(1), 1, 1), np.arange(24, dtype=np.float32).reshape(8, 3)
    found = []
    for row in x:
        steps(row[None, None])
        found.append(steps.y[0, 0, 0].copy())
    assert (y.rows, y.channels) == (1, 3)
    np.testing.assert_array_equal(found[3:], x[:5])


def test_an_expression_that_is_too_long_runs_in_torch() -> None:
    def lower(program: Lowering, x: Value) -> Value:
        return program.expression(" + ".join(f"sin({n} * x)" for n in range(400)), {}, x)

    with pytest.raises(AssertionError, match="Rows runs in torch"):
        check_native(FrameWise(Rows(torch.sin, lower)), torch.ones(1, 4, 2))


def test_check_native_finds_another_function() -> None:
    module = Rows(torch.sin, lambda p, x: p.expression("cos(x)", {}, x))
    with pytest.raises(AssertionError, match="differs"):
        check_native(FrameWise(module), torch.ones(1, 4, 2))
    with pytest.raises(LoweringError):
        check_native(StreamLayer(), torch.ones(1, 4, 2))
