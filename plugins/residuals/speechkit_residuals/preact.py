"""Pre-activation blocks, the variants of the paper, and wide blocks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor, nn

from speechkit.errors import ComponentError
from speechkit.models import Block
from speechkit.nn import BodyMaker, Dropout, Residual, Serial, StreamLayer
from speechkit_residuals.parts import (
    before,
    chosen,
    convolution,
    pre_activated,
)

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value

SHORTCUTS = "identity", "conv1x1", "scale", "exclusive_gate", "shortcut_gate", "dropout"
PLACEMENTS = "full_pre", "relu_only_pre", "relu_before_add", "bn_after_add", "original"


class Scaled(nn.Module):
    """y = factor · shortcut + body."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, shortcut: Tensor, body: Tensor) -> Tensor:
        return self.factor * shortcut + body

    def lower(self, program: Lowering, shortcut: Value, body: Value) -> Value:
        """The same as two instructions of a native program."""
        return program.added(program.scaled(shortcut, self.factor), body)


class Gated(nn.Module):
    """y = (1 − g) shortcut + g body, g = sigmoid(W shortcut + b).

    If not `exclusive`, the factor of the body is 1. b starts at −6, so that y is nearly the
    shortcut. W `[C, C]`.
    """

    def __init__(self, channels: int, exclusive: bool) -> None:
        super().__init__()
        self.exclusive = exclusive
        self.gate = nn.Linear(channels, channels)
        nn.init.constant_(self.gate.bias, -6.0)

    def forward(self, shortcut: Tensor, body: Tensor) -> Tensor:
        gate = self.gate(shortcut.transpose(1, 2)).sigmoid().transpose(1, 2)
        y: Tensor = (1 - gate) * shortcut + (gate * body if self.exclusive else body)
        return y

    def lower(self, program: Lowering, shortcut: Value, body: Value) -> Value:
        """The same in a native program."""
        gate = program.matrix(shortcut, self.gate.weight, self.gate.bias)
        kept = program.expression("(1 - sigmoid(a)) * b", {}, gate, shortcut)
        if self.exclusive:
            body = program.expression("sigmoid(a) * b", {}, gate, body)
        return program.added(kept, body)


class DroppedShortcut(nn.Module):
    """y = dropout(shortcut) + body."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.dropout = Dropout(rate)

    def forward(self, shortcut: Tensor, body: Tensor) -> Tensor:
        dropped: Tensor = self.dropout(shortcut) + body
        return dropped

    def lower(self, program: Lowering, shortcut: Value, body: Value) -> Value:
        """The sum, as in evaluation, in a native program."""
        return program.added(shortcut, body)


def preact(
    c_in: int,
    c_out: int,
    make_body: BodyMaker,
    index: int = 0,
    depth: int = 1,
    shortcut: str = "identity",
    placement: str = "full_pre",
) -> StreamLayer:
    """y = x + body(x) with norm and activation before each convolution, none after the sum.

    Where the channels change, the 1×1 shortcut reads the output of the first norm and activation.
    The last block of a net ends with a norm and an activation. `shortcut` and `placement` select
    the variants of the paper's ablations. He et al., arXiv:1603.05027.
    """
    chosen("block preact", "shortcut", shortcut, SHORTCUTS)
    chosen("block preact", "placement", placement, PLACEMENTS)
    make_body.narrow_only("preact")
    merge = _merge(make_body, shortcut, c_out, index, depth)
    projects = shortcut == "conv1x1"
    if placement == "full_pre":
        inner = [c_out] * (make_body.repeat - 1)
        return _full_pre(make_body, [c_in, *inner, c_out], merge, 0.0, index, depth, projects)
    beside = make_body.shortcut(c_in, c_out) if projects else make_body.matched(c_in, c_out)
    body, behind = _placed(make_body, c_in, c_out, placement)
    last = placement == "relu_only_pre" and index == depth - 1
    ends = {"last": before(make_body, c_out)} if last else {}
    return Serial(sum=Residual(body, beside, merge), **behind, **ends)


def wide(
    c_in: int,
    c_out: int,
    make_body: BodyMaker,
    index: int = 0,
    depth: int = 1,
    factor: float = 1.0,
    dropout: float = 0.3,
    convs: int = 2,
) -> StreamLayer:
    """A pre-activation block of `convs` sub-blocks with dropout between them.

    Inside the block there are `factor` times the channels; `wide_blocks` widens a whole net.
    Zagoruyko & Komodakis, arXiv:1605.07146.
    """
    make_body.narrow_only("wide")
    if convs < 1 or factor <= 0:
        raise ComponentError(f"block wide: convs={convs}, factor={factor}; give convs from 1")
    inner = [round(factor * c_out)] * (convs - 1)
    merge = make_body.merge(c_out, index, depth)
    return _full_pre(make_body, [c_in, *inner, c_out], merge, dropout, index, depth, False)


def wide_blocks(depth: int, factor: int, channels: int = 16, kernel: int = 3) -> tuple[Block, ...]:
    """The rows of WRN-depth-factor for one-dimensional nets: 3 groups of (depth − 4) / 6 blocks.

    The groups have channels · factor · (1, 2, 4) channels; the stem has `channels`.
    """
    each, rest = divmod(depth - 4, 6)
    if rest or each < 1:
        raise ComponentError(f"depth={depth}: a wide net has 6 n + 4 layers, such as 10, 16 or 22")
    row = Block(channels=channels, kernel=kernel)
    groups = (channels * factor * 2**group for group in range(3))
    return row, *(replace(row, channels=c, residual=True, copies=each) for c in groups)


def _full_pre(
    make_body: BodyMaker,
    channels: list[int],
    merge: nn.Module,
    dropout: float,
    index: int,
    depth: int,
    projects: bool,
) -> StreamLayer:
    c_in, *_, c_out = channels
    first, *rest = pre_activated(make_body, channels, dropout)
    body = Serial(*rest)
    ends = {"last": before(make_body, c_out)} if index == depth - 1 else {}
    if projects or c_in != c_out:
        beside = make_body.channel(c_in, c_out)
        return Serial(first=first, sum=Residual(body, beside, merge), **ends)
    return Serial(sum=Residual(Serial(first=first, rest=body), StreamLayer(), merge), **ends)


def _placed(
    make_body: BodyMaker, c_in: int, c_out: int, placement: str
) -> tuple[StreamLayer, dict[str, StreamLayer]]:
    """The body, and the layer after the sum."""
    body = make_body(c_in, c_out)
    if placement == "original":
        return body, {"after": make_body.after(c_out)}
    if placement == "relu_before_add":
        return Serial(body=body, after=make_body.after(c_out)), {}
    if placement == "relu_only_pre":
        return Serial(first=make_body.activation(c_in), body=body), {}
    *head, _ = body
    last = convolution(make_body, c_in if make_body.repeat == 1 else c_out, c_out)
    norm = make_body.norm(c_out)
    return Serial(*head, last), {"norm": norm, "after": make_body.after(c_out)}


def _merge(make_body: BodyMaker, shortcut: str, c_out: int, index: int, depth: int) -> nn.Module:
    if shortcut == "scale":
        return Scaled(0.5)
    if shortcut == "dropout":
        return DroppedShortcut(0.5)
    if shortcut.endswith("gate"):
        return Gated(c_out, shortcut == "exclusive_gate")
    return make_body.merge(c_out, index, depth)
