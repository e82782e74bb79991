"""Shallow stacks: blocks in parallel, or a mix of their outputs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from speechkit.component import Spec
from speechkit.errors import ComponentError
from speechkit.models import Model
from speechkit.nn import Add, Chunk, Delay, Pointwise, Residual, Serial, State, StreamLayer, fuse
from speechkit_residuals.linked import Linked
from speechkit_residuals.parts import chosen, same_width, widths

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value


class Excess(nn.Module):
    """y = body − shortcut: what a residual block adds."""

    def forward(self, shortcut: Tensor, body: Tensor) -> Tensor:
        return body - shortcut

    def lower(self, program: Lowering, shortcut: Value, body: Value) -> Value:
        """The same as one instruction of a native program."""
        return program.expression("b - a", {}, shortcut, body)


class SecondOrder(StreamLayer):
    """Blocks x + F_b(x) in parallel, and each block after each earlier one.

    y = x + Σ_b F_b(x) + Σ_{a<b} (F_b(x + F_a(x)) − F_b(x)). In terms of the n blocks it is
    (n − 1)(n − 2) / 2 · x − (n − 2) Σ_b block_b(x) + Σ_{a<b} block_b(block_a(x)). Blocks are named
    0, 1, … and looked up at each call, as in `Linked`. Shape: `[B, C, T]` → the same.
    """

    def __init__(self, blocks: list[StreamLayer]) -> None:
        super().__init__()
        for index, block in enumerate(blocks):
            self.add_module(str(index), block)
        self.late = max(block.delay for block in blocks)
        self.delay = 2 * self.late
        self.left = 2 * max(block.left for block in blocks)
        self.right = 2 * max(block.right for block in blocks)

    def forward(self, c: Chunk) -> Chunk:
        return self._run(c, lambda layer, given: layer(given))

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        aligned = self._aligned()
        pairs = (block for index, block in enumerate(aligned) for _ in range(index))
        calls = *aligned, Delay(self.late), Delay(self.late), *pairs
        return tuple(layer.init_state(batch, c_in, dtype, device) for layer in calls)

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        before, after = iter(state), []

        def call(layer: StreamLayer, given: Chunk) -> Chunk:
            y, new = layer.step(given, next(before))
            after.append(new)
            return y

        y = self._run(c, call)
        return y, tuple(after)

    def lower(self, program: Lowering, x: Value) -> Value:
        blocks, count = [fuse(block) for block in self._aligned()], len(self._modules)
        firsts = [program.add(block, x) for block in blocks]
        total = program.scaled(program.add(Delay(self.late), x), (count - 1) * (count - 2) / 2)
        for first in firsts:
            total = program.added(total, program.scaled(first, -(count - 2)))
        y = program.add(Delay(self.late), total)
        for index, block in enumerate(blocks):
            for first in firsts[:index]:
                y = program.added(y, program.add(block, first))
        return y

    def _run(self, c: Chunk, call: Callable[[StreamLayer, Chunk], Chunk]) -> Chunk:
        blocks, count = self._aligned(), len(self._modules)
        firsts = [call(block, c) for block in blocks]
        x, wait = call(Delay(self.late), c), Delay(self.late)
        total = (count - 1) * (count - 2) / 2 * x.x
        for first in firsts:
            total = total - (count - 2) * first.x
        y, valid = call(wait, Chunk(total, x.valid))
        for index, block in enumerate(blocks):
            for first in firsts[:index]:
                y = y + call(block, first).x
        return Chunk(y, valid)

    def _aligned(self) -> list[Serial]:
        """The outputs of the blocks, all with the largest delay of them."""
        blocks = [block for block in self.children() if isinstance(block, StreamLayer)]
        return [Serial(block, Delay(self.late - block.delay)) for block in blocks]


def parallel_shallow(blocks: list[StreamLayer], order: int = 1, first: bool = False) -> StreamLayer:
    """Runs of residual blocks in parallel: y = x + Σ_b F_b(x), F_b(x) = block_b(x) − x.

    It is the first order of (I + F_n) … (I + F_1), with the same parameters and the look-ahead of
    one block instead of all. The blocks of a run have one width, stride 1 and the identity as their
    shortcut. `order` 2 adds the second order, with the look-ahead of two blocks. It calls each
    block once more for each earlier block. Other blocks stay in series, and so does the net's first
    one. With `first` that may be the first of a run, and so may, with order 1, a block whose
    shortcut S is a projection: y = S x + F_1(x) + Σ_{b>1} F_b(S x). Bermeitinger et al.,
    arXiv:2309.08414; the projection and the second order are ours.
    """
    if order not in (1, 2):
        raise ComponentError(f"stack parallel_shallow: order={order}; give 1 or 2")
    join = SecondOrder if order == 2 else _side_by_side

    def opens(block: StreamLayer) -> bool:
        return first and (_keeps_input(block) or (order == 1 and _projects(block)))

    groups = same_width("parallel_shallow", blocks, _keeps_input, opens)
    if all(len(group) == 1 for group in groups):
        raise ComponentError(
            "stack parallel_shallow: no two blocks in a row have one width, stride 1 and the "
            "identity as their shortcut; give more residual rows, or block preact instead of plain"
        )
    return Serial(*(join(group) if len(group) > 1 else group[0] for group in groups))


def _keeps_input(block: StreamLayer) -> bool:
    """True if a block without its body would return what such a block gives it."""
    total, *after = _parts(block)
    if not isinstance(total, Residual) or type(total.shortcut) is not StreamLayer:
        return False
    rest = copy.deepcopy(nn.ModuleList([total.merge, *after])).eval()

    def without_body(x: Tensor) -> Tensor:
        merge, *layers = rest
        c = Chunk.of(merge(x, torch.zeros_like(x)))
        for layer in layers:
            c = layer(c)
        return c.x

    x = torch.linspace(-3, 3, 7).to(next(block.parameters())).expand(1, total.channels_out(0), 7)
    with torch.no_grad():
        given = without_body(x)
        return given.shape == x.shape and torch.allclose(without_body(given), given)


def _projects(block: StreamLayer) -> bool:
    """True if nothing comes after the sum of a block and its shortcut has weights."""
    *_, total = _parts(block)
    return (
        isinstance(total, Residual)
        and type(total.shortcut) is not StreamLayer
        and getattr(total.merge, "adds", False)
    )


def _parts(block: StreamLayer) -> list[StreamLayer]:
    """The block, or the layers that it applies in order."""
    return list(block) if isinstance(block, Serial) else [block]


def shallow(model: Model) -> Model:
    """A copy of a trained model with stack `serial`, with runs of blocks of one width in parallel.

    Its scores differ: fine-tune it.
    """
    if model.config.stack != Spec("serial") or not isinstance(model.encoder, Serial):
        raise ComponentError(f"shallow: a model of stack {model.config.stack}; give one of serial")
    made = copy.deepcopy(model)
    made.config = replace(model.config, stack="parallel_shallow:first=true")
    assert isinstance(made.encoder, Serial)
    made.encoder = parallel_shallow(list(made.encoder), first=True)
    return made


def _side_by_side(blocks: list[StreamLayer]) -> StreamLayer:
    first, *rest = blocks
    *before, total = _parts(first)
    if not isinstance(total, Residual) or type(total.shortcut) is StreamLayer:
        return _summed(first, rest)
    # S x is the input of the others
    shortcut = Serial(shortcut=total.shortcut, others=_summed(StreamLayer(), rest))
    return Serial(*before, Residual(total.body, shortcut, total.merge))


def _summed(total: StreamLayer, blocks: list[StreamLayer]) -> StreamLayer:
    """total(x) + Σ_b (block_b(x) − x)."""
    for block in blocks:
        total = Residual(Residual(block, StreamLayer(), Excess()), total, Add())
    return total


class LayerMix(nn.Module):
    """y_i = Σ_j W_ij x_j: each target has its own mix of the sources, without norm or bias.

    W starts at 1 for the last source ("original"), at 1 for one source per target, from the last
    source to the first ("gca"), or at 1 / sources ("uniform"). With `softmax` its rows are those of
    learned numbers, which start uniform. Shape: a list of `[B, C, T]` → another; W
    `[targets, sources]`. arXiv:2405.08570.
    """

    self_initialized = undecayed = ("weight",)

    def __init__(
        self, sources: int, targets: int = 1, init: str = "original", softmax: bool = False
    ) -> None:
        super().__init__()
        chosen("layer_mix", "init", init, ("original", "gca", "uniform"))
        if softmax and init != "uniform":
            raise ComponentError(
                f"layer_mix: a softmax does not start as {init}; give init=uniform"
            )
        self.softmax = softmax
        if init == "gca" and targets > sources:
            raise ComponentError(f"layer_mix: gca of {sources} sources for {targets} targets")
        weight = torch.full((targets, sources), 1 / sources if init == "uniform" else 0.0)
        for target in range(targets if init != "uniform" else 0):
            weight[target, -1 - (target if init == "gca" else 0)] = 1.0
        self.weight = nn.Parameter(weight)

    def forward(self, sources: list[Tensor]) -> list[Tensor]:
        stacked = torch.stack([x.transpose(1, 2) for x in sources], dim=-1)
        return list((stacked @ self.shares().t()).movedim(-1, 0).transpose(2, 3).unbind())

    def shares(self) -> Tensor:
        """W, `[targets, sources]`."""
        return self.weight.softmax(1) if self.softmax else self.weight


class MixedStack(Linked):
    """y = Σ_j w_j P_j h_j over the outputs of all blocks.

    P_j projects to the width of the last block; it is the identity where that is the block's own.
    """

    keeps_input = False

    def __init__(self, blocks: list[StreamLayer], init: str, softmax: bool) -> None:
        super().__init__(blocks)
        if len(blocks) < 2:
            raise ComponentError("stack layer_mix: one block; give at least two to mix")
        *earlier, last = widths("layer_mix", blocks)
        self.projections = nn.ModuleList(
            StreamLayer() if width == last else Pointwise(width, last) for width in earlier
        )
        self.mix = LayerMix(len(blocks), 1, init, softmax)

    def out_of(self, index: int, y: Chunk, history: list[Chunk]) -> Tensor:
        if index < self.count - 1:
            return y.x
        sources = zip(self.projections, history, strict=True)
        mixed: Tensor = self.mix([*(project(h).x for project, h in sources), y.x])[0]
        return mixed

    def lower_out_of(self, program: Lowering, index: int, y: Value, history: list[Value]) -> Value:
        if index < self.count - 1:
            return y
        sources = zip(self.projections, history, strict=True)
        mixed = [*(program.add(project, h) for project, h in sources), y]
        weights = self.mix.shares()[0].unbind()
        terms = [program.scaled(x, w) for x, w in zip(mixed, weights, strict=True)]
        return reduce(program.added, terms)


def layer_mix(
    blocks: list[StreamLayer], init: str = "original", softmax: bool = False
) -> MixedStack:
    return MixedStack(blocks, init, softmax)
