"""Which blocks of a net may be left out, and nets of some of its blocks."""

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from speechkit.component import Spec
from speechkit.models import Block, Model, Net
from speechkit.plugins import registry
from speechkit.transforms.rows import with_rows

TAKES = {"stack": ("core/serial",)}
"""The components of a net whose blocks may be left out."""
TAKES_BODIES = TAKES | {"block": ("core/plain", "core/skip"), "residual": ("core/add",)}
"""The components of a net whose blocks may be left without their bodies."""


def spans(config: Net, count: int) -> list[int]:
    """The first block of each `count` residual blocks in a row that return the width they read.

    Blocks are those of the encoder, counted from 0. A residual block has no stride.
    """
    rows = [row for row, _ in config.rows()]
    return [
        first
        for first in range(len(rows) - count)
        if rows[first].channels == rows[first + count].channels
        and all(row.residual for row in rows[first + 1 : first + 1 + count])
    ]


def bodies(config: Net) -> list[int]:
    """The residual blocks that are `plain`: a net that `TAKES_BODIES` fits can leave out theirs."""

    def is_plain(row: Block) -> bool:
        design = Spec.parse(row.block or config.block)
        return registry().find("block", design.name).qualified_name == "core/plain"

    return [
        block for block, (row, _) in enumerate(config.rows()[1:]) if row.residual and is_plain(row)
    ]


class Step(NamedTuple):
    """A block on a path, or where `body` is false its shortcut alone, which is block `skip`."""

    block: int
    body: bool = True


def along(model: Model, path: Iterable[Step]) -> Model:
    """The net of the blocks of a path; a repeated one becomes several rows of equal weights."""
    rows = model.config.rows()
    chosen, origins = rows[:1], [0]
    for block, body in path:
        row, ahead = rows[block + 1]
        chosen.append((row if body else replace(row, block=Spec("skip")), ahead))
        origins.append(block + 1)
    return with_rows(model, chosen, origins, old_name=lambda name: f"sum.{name}")


def whole(config: Net) -> list[Step]:
    """The path of all blocks."""
    return [Step(block) for block in range(len(config.rows()) - 1)]
