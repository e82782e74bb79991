"""Easter2.0: a dense residual with squeeze and excitation, arXiv:2205.14879."""

from __future__ import annotations

from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

from torch import Tensor, nn

from speechkit.errors import ComponentError
from speechkit.models import Block, QuartzNet
from speechkit.nn import Add, BatchNorm, FrameWise, Pointwise, Residual, Serial, StreamLayer
from speechkit.text import ENGLISH_LABELS
from speechkit_residuals.parts import cat_channels, chosen, squeeze_excite, widths

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value


def easter2(labels: tuple[str, ...] = ENGLISH_LABELS, context: str = "running") -> QuartzNet:
    """The config of Easter2.0, for 80 mel bands: one label or blank per 40 ms.

    With `context="utterance"` squeeze and excitation uses the mean of the whole utterance, as in
    the paper; with "running" that of the frames so far, so that the net streams.
    """
    row = partial(Block, separable=False)
    unit = partial(row, channels=256, repeat=3, residual=True)
    return QuartzNet(
        labels=labels,
        blocks=(
            row(channels=128, kernel=3, stride=2, copies=2),
            unit(kernel=5),
            unit(kernel=7),
            unit(kernel=9, dropout=0.3),
            row(channels=512, kernel=11, dilation=2, dropout=0.4),
            row(channels=512, kernel=1, dropout=0.4),
        ),
        frontend="log_mel:n_mels=80",
        stack=f"dense_easter:context={context}",
        norm="batch:eps=1e-5,momentum=0.003",
        dropout=0.2,
    )


class Part(nn.Module):
    """A range of the channels."""

    def __init__(self, start: int, end: int) -> None:
        super().__init__()
        self.start, self.end = start, end

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.start : self.end]

    def lower(self, program: Lowering, x: Value) -> Value:
        """The same as one instruction of a native program."""
        return program.part(x, self.start, self.end - self.start)


class Twice(nn.Module):
    """The channels, concatenated with themselves."""

    def forward(self, x: Tensor) -> Tensor:
        return cat_channels([x, x])

    def lower(self, program: Lowering, x: Value) -> Value:
        """The same as one instruction of a native program."""
        return program.join(x, x)


class Joint(nn.Module):
    """y = (merge(old, body), old), concatenated along the channels."""

    def __init__(self, merge: nn.Module) -> None:
        super().__init__()
        self.merge = merge

    def forward(self, old: Tensor, body: Tensor) -> Tensor:
        return cat_channels([self.merge(old, body), old])

    def lower(self, program: Lowering, old: Value, body: Value) -> Value:
        """The same in a native program: the merge rule, then one instruction."""
        return program.join(program.merge(self.merge, old, body), old)


class Beside(nn.Module):
    """y = (data, old), concatenated along the channels."""

    def forward(self, old: Tensor, data: Tensor) -> Tensor:
        return cat_channels([data, old])

    def lower(self, program: Lowering, old: Value, data: Value) -> Value:
        """The same as one instruction of a native program."""
        return program.join(data, old)


def dense_easter(
    blocks: list[StreamLayer], reduction: int = 8, context: str = "running"
) -> StreamLayer:
    """Units (data, old) → (after(old' + SE(body(data))), old'),

        old' = norm(P old) + shortcut(data).

    A unit is a residual block with an activation after the sum, such as `plain`. Body, shortcut and
    after are those of the block. `old` starts as the input of a run of units and is passed from
    unit to unit. Other blocks stay in series. So does the first block, since the stack does not
    have its input. `reduction` 0 leaves squeeze and excitation out. Its mean is that of the frames
    so far, or, with `context` "utterance", that of the whole utterance.
    """
    chosen("stack dense_easter", "context", context, ("running", "utterance"))
    if reduction < 0:
        raise ComponentError(f"stack dense_easter: reduction={reduction}; give at least 1, or 0")
    channels = widths("dense_easter", blocks)
    row, rest = blocks[:1], range(1, len(blocks))
    if not any(_is_unit(blocks[index]) for index in rest):
        raise ComponentError(
            "stack dense_easter: no block after the first activates the sum of a body and a "
            "shortcut; give residual rows and block plain, identity or res2"
        )
    for dense, indices in groupby(rest, lambda index: _is_unit(blocks[index])):
        start, *more = indices
        run = blocks[start : start + 1 + len(more)]
        row += [_chained(run, channels[start - 1], reduction, context)] if dense else run
    return Serial(*row)


def _is_unit(block: StreamLayer) -> bool:
    parts = dict(block.named_children())
    return list(parts) == ["sum", "after"] and isinstance(parts["sum"], Residual)


def _chained(blocks: list[StreamLayer], channels: int, reduction: int, context: str) -> Serial:
    units: list[StreamLayer] = []
    data = old = channels
    for block in blocks:
        total, after = block.children()
        assert isinstance(total, Residual)
        assert isinstance(after, StreamLayer)
        units.append(_unit(total, after, data, old, reduction, context))
        data, old = block.channels_out(data), total.channels_out(data)
    return Serial(
        twice=FrameWise(Twice(), 2 * channels),
        units=Serial(*units),
        data=FrameWise(Part(0, data), data),
    )


def _unit(
    total: Residual, after: StreamLayer, data: int, old: int, reduction: int, context: str
) -> Serial:
    wide = total.channels_out(data)
    parts: dict[str, StreamLayer] = {"data": FrameWise(Part(0, data), data), "body": total.body}
    if reduction:
        parts["excite"] = squeeze_excite(wide, reduction, context)
    chain = Residual(
        Serial(
            old=FrameWise(Part(data, data + old), old),
            linear=Pointwise(old, wide),
            norm=BatchNorm(wide),
        ),
        Serial(data=FrameWise(Part(0, data), data), shortcut=total.shortcut),
        Add(),
    )
    activated = Serial(sum=FrameWise(Part(0, wide), wide), after=after)
    both = Residual(activated, FrameWise(Part(wide, 2 * wide), wide), Beside())
    return Serial(
        sum=Residual(Serial(**parts), chain, Joint(total.merge)),
        after=both,
        both=FrameWise(nn.Identity(), activated.channels_out(wide) + wide),
    )
