"""`Lowering.blocks` of a plugin's layer: it computes what torch does, or runs in torch alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.native.libraries import load
from speechkit.nn import Chunk, FrameWise, Pointwise, Recurrent, Serial, State, StreamLayer
from speechkit.nn.lowering import Lowering
from speechkit.plans.engine import SOURCE, LoadedPlan
from speechkit.plans.program import CODES, STATELESS, LoweringError, Value
from speechkit.testing import check_native

pytestmark = pytest.mark.skipif(isinstance(load(SOURCE), str), reason="there is no C++ compiler")
CHANNELS, SIZE = 6, 4
Update = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
Lower = Callable[[Lowering, Value, Value], tuple[Value, Value]]
chance = torch.Generator().manual_seed(0)
TABLE = torch.randn(SIZE, CHANNELS, generator=chance)


class Blocks(Recurrent):
    """Blocks of frames and a memory, frame by frame: update(block, memory, valid).

    With `heads` the last `asking` channels are queries to the memory, else frames leave with their
    block.
    """

    def __init__(
        self,
        size: int,
        first: Tensor,
        update: Update,
        lower: Lower,
        heads: int = 0,
        asking: int = 0,
    ) -> None:
        super().__init__()
        self.size, self.first, self.heads, self.asking = size, first, heads, asking
        self.update, self.lower_update = update, lower
        self.delay = self.right = 0 if heads else size - 1

    def channels_out(self, c_in: int) -> int:
        return self.asking if self.heads else c_in

    def forward(self, c: Chunk) -> Chunk:
        x = F.pad(c.x.transpose(1, 2), (0, 0, 0, self.delay)).transpose(1, 2)
        state = self.init_state(len(x), x.shape[1], x.dtype, x.device)
        y, _ = self.step(Chunk(x, F.pad(c.valid, (0, self.delay))), state)
        return Chunk(y.x[:, :, self.delay :], y.valid[:, self.delay :])

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        first = self.first if self.first.ndim == 2 else torch.zeros(1, 1)
        held = torch.zeros(batch, self.size, c_in - self.asking, dtype=dtype)
        marks, numbers = held[..., 0].bool(), torch.zeros(batch, 2, dtype=torch.int64)
        return numbers, held, marks, held, marks, first.to(dtype).expand(batch, *first.shape)

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        numbers, block, real, leaving, left, memory = (x.clone() for x in state)
        rows = c.masked.transpose(1, 2)
        y = rows.new_zeros(*rows.shape[:2], self.channels_out(rows.shape[2]))
        marks = torch.zeros_like(c.valid)
        for b, t in c.valid.new_ones(c.valid.shape).nonzero().tolist():
            valid, (place, begun) = c.valid[b, t], numbers[b].tolist()
            if not valid and (self.heads or not begun):
                continue
            x, q = rows[b, t].split([block.shape[2], self.asking])
            if self.heads:
                k, v = memory[b][:, -2 * self.asking :].unflatten(1, (2, self.heads, -1)).unbind(1)
                scores = torch.einsum("shc,hc->sh", k, q.unflatten(0, (self.heads, -1)))
                y[b, t] = torch.einsum("sh,shc->hc", scores.softmax(0), v).flatten()
                marks[b, t] = True
            block[b, place], real[b, place] = x, valid
            place = (place + 1) % self.size
            numbers[b] = torch.tensor([place, 1])
            if place == 0:
                leaving[b], after = self.update(block[b], memory[b].clone(), real[b])
                left[b], memory[b] = real[b], after if real[b].any() else memory[b]
            if not self.heads:
                y[b, t], marks[b, t] = leaving[b, place], left[b, place]
        return Chunk(y.transpose(1, 2), marks), (numbers, block, real, leaving, left, memory)

    def lower(self, program: Lowering, x: Value) -> Value:
        queries = None
        if self.heads:
            queries = program.part(x, x.channels - self.asking, self.asking)
            x = program.part(x, 0, x.channels - self.asking)
        heads = self.heads or 1
        return program.blocks(x, self.size, self.first, self.lower_update, queries, heads)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def fading(b: Tensor, m: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    return b, m / 2


def lower_fading(body: Lowering, b: Value, m: Value) -> tuple[Value, Value]:
    return b, body.scaled(m, 0.5)


def attended(b: Tensor, m: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    k, v = b.chunk(2, dim=1)
    return b + TABLE.to(b), (m @ k.T).masked_fill(~real, -1e30).softmax(1) @ v


def check(layer: StreamLayer, channels: int, *in_torch: str) -> None:
    """Checks the layer between others."""
    torch.manual_seed(0)
    wide = layer.channels_out(channels)
    net = Serial(Pointwise(3, channels), layer, Pointwise(wide, 7), FrameWise(nn.ReLU()))
    lengths = torch.tensor([23, 14, 1])
    check_native(net.eval(), random(3, 3, 23), lengths, in_torch=[*in_torch])


NATIVE: dict[str, tuple[Blocks, int]] = {
    "of one frame": (
        Blocks(1, random(1, 6), lambda b, m, _: (b + m, b), lambda p, b, m: (p.added(b, m), b)),
        6,
    ),
    "with one channel": (
        Blocks(3, random(3, 1), lambda b, m, _: (b + m, b), lambda p, b, m: (p.added(b, m), b)),
        1,
    ),
    "with a memory of one channel": (
        Blocks(
            3,
            random(3, 1),
            lambda b, m, _: (b, m / 2 + b[:, :1]),
            lambda p, b, m: (b, p.added(p.scaled(m, 0.5), p.part(b, 0, 1))),
        ),
        4,
    ),
    "that become the memory, which leaves": (
        Blocks(3, random(3, 6), lambda b, m, _: (m, b), lambda p, b, m: (m, b)),
        6,
    ),
    "whose memory stays, and is read": (
        Blocks(3, random(2, 10), lambda b, m, _: (b, m), lambda p, b, m: (b, m), 1, 5),
        11,
    ),
    "that become the memory, which is read": (
        Blocks(3, random(3, 10), lambda b, m, _: (b, b), lambda p, b, m: (b, b), 1, 5),
        15,
    ),
    "read in one head of 17 channels": (Blocks(2, random(1, 34), fading, lower_fading, 1, 17), 20),
    "read in one channel": (Blocks(2, random(3, 2), fading, lower_fading, 1, 1), 4),
    "with more in their memory than is read": (
        Blocks(2, random(20, 40), fading, lower_fading, 3, 18),
        21,
    ),
    "with places, and attention": (
        Blocks(
            SIZE,
            random(2, 3),
            attended,
            lambda p, b, m: (p.places(b, TABLE), p.attend(m, b, 1)),
        ),
        6,
    ),
}


@pytest.mark.parametrize("name", NATIVE)
def test_blocks_are_computed_as_in_torch(name: str) -> None:
    check(*NATIVE[name])


def nested(p: Lowering, b: Value, m: Value) -> tuple[Value, Value]:
    return p.blocks(b, 2, torch.zeros(1, 6), lambda _, x, y: (x, y)), m


def same(b: Tensor, m: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    return b, m


OUTSIDE: dict[str, Blocks] = {
    "an instruction with a state": Blocks(
        3, random(2, 6), same, lambda p, b, m: (b, p.emit("running_average", m))
    ),
    "rows that are left out": Blocks(
        2, random(1, 6), lambda b, m, _: (b, b[:1]), lambda p, b, m: (b, p.every(b, 2))
    ),
    "blocks in blocks": Blocks(2, random(3, 6), same, nested),
    "a memory of another size": Blocks(2, random(3, 6), same, lambda p, b, m: (b, p.part(m, 0, 3))),
    "too many frames that leave": Blocks(2, random(3, 6), same, lambda p, b, m: (m, m)),
    "places of another size": Blocks(
        SIZE, random(2, 6), same, lambda p, b, m: (p.places(b, TABLE[:2]), m)
    ),
    "heads that do not divide": Blocks(
        2, random(3, 3), same, lambda p, b, m: (b, p.attend(m, b, 2))
    ),
    "no rows in the memory": Blocks(2, random(0, 6), same, lambda p, b, m: (b, m)),
    "a memory that is no matrix": Blocks(2, random(6), same, lambda p, b, m: (b, m)),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_blocks_cannot_do_runs_in_torch_alone(name: str) -> None:
    check(OUTSIDE[name], 6, "Blocks")


@pytest.mark.parametrize(("heads", "asking"), [(2, 3), (1, 4)])
def test_queries_that_do_not_fit_the_memory_are_refused(heads: int, asking: int) -> None:
    layer, program = Blocks(2, random(3, 6), fading, lower_fading, heads, asking), Lowering()
    with pytest.raises(LoweringError, match="heads" if heads == 2 else "keys and values"):
        layer.lower(program, program.input(1, 8))


class Added(StreamLayer):
    """Adds a row of a table, by an instruction for blocks."""

    def forward(self, c: Chunk) -> Chunk:
        return Chunk(c.x + TABLE[:1].to(c.x).T, c.valid)

    def lower(self, program: Lowering, x: Value) -> Value:
        return program.places(x, TABLE[:1])


class Asking(StreamLayer):
    """The values of one row, by an instruction for blocks."""

    def channels_out(self, c_in: int) -> int:
        return c_in // 2

    def forward(self, c: Chunk) -> Chunk:
        return Chunk(c.x[:, 3:], c.valid)

    def lower(self, program: Lowering, x: Value) -> Value:
        return program.attend(program.part(x, 0, 3), x, 1)


@pytest.mark.parametrize("layer", [Added(), Asking()])
def test_instructions_for_blocks_stand_nowhere_else(layer: StreamLayer) -> None:
    check(layer, 6, type(layer).__name__)


def test_the_engine_keeps_nothing_for_instructions_without_a_state() -> None:
    program = Lowering()
    x = program.input(1, CHANNELS)
    y = program.emit("log_softmax", program.emit("largest", program.matrix(x, TABLE[:, :6].T)))
    y = program.expression("exp(a - b)", {}, program.scaled(y, 2.0), x)
    y = program.normalize(program.fold(program.repeat(program.added(y, x), 2), 2), 1e-5)
    y = program.spread(program.join(program.part(y, 0, 3), y), 3)
    y = program.binary(y, torch.zeros(y.channels), torch.ones(3, y.channels), torch.ones(3))
    program.emit("activate", y, activation=1)
    none = LoadedPlan(program.table[:1], program.weights.array, 1, CHANNELS, 1).state_size
    whole = LoadedPlan(program.table, program.weights.array, 1, CHANNELS, 1)
    assert (program.with_state, whole.state_size) == ([], none)
    used = {CODES[row["code"]] for row in program.instructions}
    # those for the bodies of blocks are tested there
    assert used == STATELESS - {"attend", "places"}
