"""Blocks of frames, each row with its own: against a loop over frames, for any validity."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from speechkit_mixers.blockwise import Blockwise
from torch import Tensor, nn

from speechkit.errors import ComponentError
from speechkit.nn import Chunk, State
from speechkit.nn.states import rebuilt, tensors_of
from speechkit.testing import assert_close, check_stream

CHANNELS, FIRST = 2, 3.0


class Sums(Blockwise):
    """Frames whose values tell what they read: all numbers are whole, so that sums are exact.

    A block moves the memory m to m mod 97 + Σ (i + 1) x_i over its valid frames i. Waiting, a frame
    leaves as x + 1000 m + Σ x of its block; otherwise as x + 1000 m + Σ x over the last frames.
    """

    def __init__(self, size: int, waits: bool) -> None:
        super().__init__(size, CHANNELS, waits)

    def begin(self) -> Tensor:
        return torch.full((1, CHANNELS), FIRST, dtype=torch.float64)

    def update(self, block: Tensor, valid: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        weights = (1 + torch.arange(self.size, device=block.device)) * valid
        after = memory % 97 + (weights[:, :, None] * block).sum(1, keepdim=True)
        total = (valid[:, :, None] * block).sum(1, keepdim=True)
        return block + 1000 * memory + total, after

    def read(
        self, new: Tensor, frames: Tensor, valid: Tensor, memory: list[Tensor], own: Tensor
    ) -> Tensor:
        known = torch.where(valid[:, :, None], frames, 0)
        sums = known.unfold(1, self.size, 1).sum(3)
        before = torch.cat(memory, dim=1).gather(1, own[:, :, None].expand_as(new))
        return new + 1000 * before + sums


def looped(x: Tensor, valid: Tensor, size: int, waits: bool) -> Tensor:
    """The output of one row `[T, C]`, frame by frame; invalid frames are 0."""
    y, memory = torch.zeros_like(x), torch.full((CHANNELS,), FIRST, dtype=x.dtype)
    if waits:
        begun = int(valid.float().argmax()) if valid.any() else len(x)
        borders = [*range(begun, len(x), size), len(x)]
        blocks = [[i for i in range(a, b) if valid[i]] for a, b in pairwise(borders)]
        places = [[i - a for i in block] for block, a in zip(blocks, borders, strict=False)]
    else:
        known = valid.nonzero().flatten().tolist()
        blocks = [known[i : i + size] for i in range(0, len(known), size)]
        places = [list(range(len(block))) for block in blocks]
        for number, i in enumerate(known):
            y[i] = x[known[max(0, number - size + 1) : number + 1]].sum(0)
    for block, place in zip(blocks, places, strict=True):
        for i in block:
            y[i] += x[i] + 1000 * memory + (x[block].sum(0) if waits else 0)
        if (waits and block) or len(block) == size:
            weighted = [(p + 1) * x[i] for p, i in zip(place, block, strict=True)]
            memory = memory % 97 + torch.stack(weighted).sum(0)
    return y


def stepped(layer: Blockwise, x: Tensor, valid: Tensor, sizes: list[int]) -> Chunk:
    """The aligned output in chunks of these sizes, with NaN in invalid frames."""
    padding = torch.zeros(len(x), layer.delay, dtype=torch.bool)
    valid = torch.cat([valid, padding], dim=1)
    x = torch.nn.functional.pad(x, (0, layer.delay)).masked_fill(~valid[:, None], torch.nan)
    state, parts, start = layer.init_state(len(x), CHANNELS, x.dtype), [], 0
    while start < x.shape[2]:
        size = sizes[len(parts) % len(sizes)]
        c = Chunk(x[:, :, start : start + size], valid[:, start : start + size])
        y, state = layer.step(c, state)
        parts.append(y)
        start += size
    y = torch.cat([part.x for part in parts], dim=2)[:, :, layer.delay :]
    return Chunk(y, torch.cat([part.valid for part in parts], dim=1)[:, layer.delay :])


def numbers(batch: int, frames: int, seed: int = 0) -> Tensor:
    """Whole numbers `[batch, CHANNELS, frames]`."""
    chance = torch.Generator().manual_seed(seed)
    return torch.randint(-9, 10, (batch, CHANNELS, frames), generator=chance).double()


@settings(deadline=None, max_examples=50)
@given(data=st.data())
@pytest.mark.parametrize("waits", [False, True])
def test_any_chunks_of_any_valid_frames_are_the_loop_over_frames(
    waits: bool, data: st.DataObject
) -> None:
    size = data.draw(st.integers(2, 6), "size")
    frames = data.draw(st.integers(1, 24), "frames")
    row = st.lists(st.sampled_from([True, True, True, False]), min_size=frames, max_size=frames)
    valid = torch.tensor(data.draw(st.lists(row, min_size=1, max_size=3), "valid"))
    sizes = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=4).filter(any), "chunks")
    layer, x = Sums(size, waits), numbers(len(valid), frames)
    expected = torch.stack(
        [looped(one.t(), real, size, waits).t() for one, real in zip(x, valid, strict=True)]
    )
    for y in (
        stepped(layer, x, valid, sizes),
        layer(Chunk(x, valid)),
        layer.eval()(Chunk(x, valid)),
    ):
        assert torch.equal(y.valid, valid)
        assert torch.equal(y.masked, expected)


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("leading", [1, 3, 4, 7])
def test_blocks_begin_at_a_rows_first_valid_frame(waits: bool, leading: int) -> None:
    layer, x = Sums(4, waits), numbers(2, 17)
    valid = torch.ones(2, 17, dtype=torch.bool)
    valid[1, :leading] = False
    y = stepped(layer, x, valid, [1])
    alone = layer(Chunk.of(x[1:, :, leading:]))
    assert torch.equal(y.x[1:, :, leading:], alone.x)
    assert torch.equal(y.x[:1], layer(Chunk.of(x[:1])).x)


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("at", range(1, 9))
def test_a_row_that_is_reset_inside_a_block_begins_anew(waits: bool, at: int) -> None:
    layer = Sums(4, waits)
    old, new = numbers(2, 30), numbers(1, 30, seed=1)
    state = layer.init_state(2, CHANNELS, torch.float64)
    _, state = layer.step(Chunk.of(old[:, :, :at]), state)
    fresh = layer.init_state(2, CHANNELS, torch.float64)
    mixed = (
        torch.cat([a[:1], b[1:]]) for a, b in zip(tensors_of(state), tensors_of(fresh), strict=True)
    )
    x = torch.cat([old[:1, :, at:], new[:, :, at:]])
    y, _ = layer.step(Chunk.of(x), rebuilt(state, mixed))
    went_on = layer.step(Chunk.of(old[:, :, at:]), state)[0]
    began = layer.step(Chunk.of(new[:, :, at:]), layer.init_state(1, CHANNELS, torch.float64))[0]
    assert torch.equal(y.x, torch.cat([went_on.x[:1], began.x]))
    assert torch.equal(y.valid, torch.cat([went_on.valid[:1], began.valid]))


@pytest.mark.parametrize("waits", [False, True])
def test_ragged_rows_stream_bit_for_bit(waits: bool) -> None:
    x = numbers(4, 40)
    check_stream(Sums(7, waits), x, torch.tensor([40, 21, 1, 0]), [1, 2, 7, 8, [1, 13, 5]], rtol=0)


@pytest.mark.parametrize("waits", [False, True])
def test_the_state_of_an_endless_stream_stays_small(waits: bool) -> None:
    layer = Sums(5, waits)
    state: State = layer.init_state(1, CHANNELS, torch.float64)
    for number in range(40):
        _, state = layer.step(Chunk.of(numbers(1, 13, seed=number)), state)
        count = int(state[2])
        assert count <= 13 if not number else 5 <= count < 10
        assert count % 5 == 13 * (number + 1) % 5


def test_the_memory_has_float32_at_least() -> None:
    past, _, _, memory = Sums(3, waits=False).init_state(2, CHANNELS, torch.bfloat16)
    assert (past.dtype, memory.dtype) == (torch.bfloat16, torch.float32)


def test_a_block_of_one_frame_is_refused() -> None:
    with pytest.raises(ComponentError, match="window=1: give a number of frames from 2 up"):
        Sums(1, waits=False)


def test_a_block_without_valid_frames_keeps_the_memory() -> None:
    layer, x = Sums(3, waits=True), numbers(1, 12)
    valid = torch.ones(1, 12, dtype=torch.bool)
    # the second block of three
    valid[:, 3:6] = False
    y = layer(Chunk(x, valid))
    joined = layer(Chunk.of(torch.cat([x[:, :, :3], x[:, :, 6:]], dim=2)))
    assert_close("after the gap", joined.x[:, :, 3:], y.x[:, :, 6:], rtol=0)


class Whole(nn.Module):
    """A layer over whole recordings `[B, C, T]`."""

    def __init__(self, layer: Sums) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(Chunk(x, torch.ones_like(x[:, 0], dtype=torch.bool))).x


@pytest.mark.parametrize("waits", [False, True])
def test_an_export_for_any_number_of_frames_is_refused_at_once(waits: bool) -> None:
    x = torch.zeros(2, CHANNELS, 50)
    frames = {2: torch.export.Dim("frames", min=2)}
    with pytest.raises(RuntimeError, match="may have any number of blocks"):
        torch.export.export(Whole(Sums(4, waits)), (x,), dynamic_shapes=(frames,))
