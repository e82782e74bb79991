"""Which sub-blocks become one, by the rows of a config."""

from speechkit_compression.segments import Segment, segments, sub_blocks

import speechkit as sk
from speechkit.models import Net
from speechkit.nn import LookAhead

WIDE = sk.Block(channels=8, kernel=5)


def found(*rows: sk.Block, longest: int = 9, lookahead: LookAhead = "same") -> set[tuple[int, ...]]:
    """(start, split, stop) of all segments of more than one sub-block."""
    net: Net = sk.MatchboxNet(labels=("a",), blocks=(WIDE, *rows), lookahead=lookahead)
    each = segments(sub_blocks(net, 16), longest)
    return {(s.start, s.split, s.stop) for s in each if s.merges}


def test_a_row_of_three_has_every_split() -> None:
    row = sk.Block(channels=8, kernel=5, repeat=3, residual=True)
    inside = {(1, 1, 3), (1, 2, 3), (2, 2, 4), (2, 3, 4), (1, 1, 4), (1, 2, 4), (1, 3, 4)}
    assert found(row) == inside | {(0, 0, 4)}


def test_a_layer_that_changes_the_channels_is_kept() -> None:
    row = sk.Block(channels=12, kernel=5, repeat=2, residual=True)
    # its first 1×1 layer is from 8 to 12 channels
    assert found(row) == {(1, 1, 3), (0, 0, 3)}


def test_a_row_is_taken_as_a_whole() -> None:
    row = sk.Block(channels=8, kernel=5, repeat=2, residual=True)
    crossing = {(start, split, stop) for start, split, stop in found(row, row) if start < 3 < stop}
    assert crossing == {(0, 0, 5), (1, 1, 5), (1, 2, 5), (2, 2, 5)}


def test_a_row_that_begins_with_other_sub_blocks_keeps_its_channels() -> None:
    row = sk.Block(channels=8, kernel=5, repeat=2)
    segments = found(row, sk.Block(channels=12, kernel=1, separable=False))
    assert (1, 1, 4) in segments
    assert (2, 2, 4) not in segments


def test_no_segment_is_longer_than_asked() -> None:
    row = sk.Block(channels=8, kernel=5, repeat=3, residual=True)
    assert {stop - start for start, _, stop in found(row, longest=2)} == {2}
    assert found(row, longest=1) == set()


def test_a_stride_and_a_dense_filter_are_kept() -> None:
    assert found(sk.Block(channels=8, kernel=5, stride=2)) == set()
    assert found(sk.Block(channels=8, kernel=5, separable=False)) == set()
    assert found(sk.Block(channels=8, kernel=1, separable=False)) == {(0, 0, 2)}


def test_filters_merge_only_where_one_look_ahead_describes_them() -> None:
    row = sk.Block(channels=8, kernel=5, repeat=2)
    assert (1, 2, 3) in found(row)
    assert (1, 2, 3) in found(row, lookahead=0)
    # one frame each is two together
    assert (1, 2, 3) not in found(row, lookahead=1)
    # "same" of 6 frames is 3, and of 3 frames it is 1
    even = sk.Block(channels=8, kernel=4, repeat=2)
    assert (1, 2, 3) not in found(even)
    assert (1, 1, 3) in found(even)


def test_a_segment_of_one_changes_nothing() -> None:
    assert not Segment(2, 2, 3).merges
