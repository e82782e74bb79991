"""Segments: which neighbouring sub-blocks of a net can be computed as one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from speechkit.models import Block, Net
from speechkit.nn import LookAhead, reach


class SubBlock(NamedTuple):
    """A sub-block of a net: `row` is counted from 0 for the stem, `place` in its row.

    `block` is the row as if it had only this sub-block; `ends` is True for the last of the row.
    """

    row: int
    place: int
    ends: bool
    c_in: int
    block: Block
    lookahead: LookAhead

    @property
    def frame_wise(self) -> bool:
        """True if only its filter, if it has one, reads other frames."""
        return self.block.stride == 1 and (self.block.separable or self.block.kernel == 1)


@dataclass(frozen=True)
class Segment:
    """The sub-blocks `start` … `stop` − 1 as one, counted from 0 over all rows of a net.

    It keeps the filters of `start` … `split` and the 1×1 layers of `split` … `stop` − 1; their
    other layers, and all activations but the last, are left out. So its filters follow each other,
    and so do its 1×1 layers: both become one without a dense convolution.
    """

    start: int
    split: int
    stop: int

    @property
    def merges(self) -> bool:
        """True if it is more than one sub-block."""
        return self.stop > self.start + 1


def sub_blocks(config: Net, features: int) -> list[SubBlock]:
    """The sub-blocks of a net that reads `features` channels, in order."""
    rows = config.rows()
    widths = features, *(block.channels for block, _ in rows)
    return [
        SubBlock(row, place, place + 1 == block.repeat, widths[row + (place > 0)], one, ahead)
        for row, (block, ahead) in enumerate(rows)
        for place, one in enumerate(block.each())
    ]


def unchanged(count: int) -> list[Segment]:
    """The plan that leaves each of `count` sub-blocks as it is."""
    return [Segment(at, at, at + 1) for at in range(count)]


def segments(blocks: Sequence[SubBlock], longest: int) -> Iterator[Segment]:
    """All segments of up to `longest` sub-blocks that a config can name.

    A segment ends in the row in which it starts, or takes the rows after that one as a whole,
    without their filters, since the shortcut of a row reads what the row before it returns.
    """
    for start, first in enumerate(blocks):
        for stop in range(start + 1, min(start + longest, len(blocks)) + 1):
            own = [b for b in blocks[start:stop] if b.row == first.row]
            others = blocks[start + len(own) : stop]
            if others and not (own[-1].ends and others[-1].ends):
                continue
            # the other sub-blocks of the first row keep its channels
            if first.place and others and others[-1].block.channels != first.block.channels:
                continue
            for split in range(len(own)):
                kept, dropped = own[: split + 1], [*own[split + 1 :], *others]
                if _filters_merge(kept) and all(b.frame_wise for b in dropped):
                    yield Segment(start, start + split, stop)


def kernel(blocks: Sequence[SubBlock]) -> int:
    """The kernel of the filters of sub-blocks of one row, one after another: 1 + Σ (kernel − 1)."""
    return 1 + sum(k - 1 for b in blocks for k in b.block.kernels)


def _filters_merge(blocks: Sequence[SubBlock]) -> bool:
    """True if the 1×1 layers between these filters can be left out, and one filter of the row's
    `lookahead` reads what all of them read."""
    if len(blocks) == 1:
        return True
    narrow = all(b.c_in == b.block.channels and b.block.separable for b in blocks[:-1])
    shape = blocks[0].block.dilation, blocks[0].lookahead
    ahead = sum(reach(k, *shape)[1] for b in blocks for k in b.block.kernels)
    return narrow and blocks[-1].block.separable and reach(kernel(blocks), *shape)[1] == ahead
