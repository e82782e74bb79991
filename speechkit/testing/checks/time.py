"""Checks of the frames that a layer reads, and of equal results in a batch, alone and streamed."""

import copy
import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from speechkit.errors import StreamError
from speechkit.nn import Chunk, Recurrent, State, StreamLayer, cat_time
from speechkit.plugins import Entry
from speechkit.testing.specimen import FRAMES, Specimen, specimens, used
from speechkit.testing.stream import assert_close, check_stream, dyadic_, stream

ALLOWED = {
    "frame": (0, 0),
    "causal": (math.inf, 0),
    "lookahead": (math.inf, math.inf),
    "utterance": (math.inf, math.inf),
}
"""The number of frames before and after its own that an output frame may read, by `time`."""
CHUNKS: tuple[int | list[int], ...] = (1, 2, 8, 50, [1, 3, 2])
"""Strides per step of a short input."""
LARGE: tuple[int | list[int], ...] = ([3, 30], 64)
"""Strides per step of a longer one."""
MANY, PLACES = 200, 7
"""The frames of a longer input, and the positions at which it is changed."""
AHEAD = 100
"""The frames of an input in training."""


def check_batch_rows_independent(entry: Entry) -> None:
    """In evaluation a row does not depend on the other rows."""
    for specimen in used(entry):
        x = specimen.input()
        expected = _run(specimen.layer, Chunk.of(x))
        garbage = x.clone()
        garbage[1] = torch.nan
        lengths = torch.tensor([x.shape[2], x.shape[2] // 3])
        got = _run(specimen.layer, Chunk.of(garbage, lengths))
        assert torch.equal(got.valid[:1], expected.valid[:1]), f"{specimen}: row 0 is as row 1 is"
        assert_close(
            f"{specimen}, row 0 beside a row of NaN",
            expected.masked[:1],
            Chunk(got.x[:1], got.valid[:1]).masked,
            rtol=1e-12,
        )


def check_padding_is_inert(entry: Entry) -> None:
    """Invalid frames have no effect, whatever they hold."""
    for specimen in used(entry):
        x = specimen.input(3)
        lengths = torch.tensor([x.shape[2], x.shape[2] // 2, x.shape[2] // 3])
        layer = specimen.layer
        poisoned = Chunk.of(x, lengths)
        poisoned = Chunk(x.masked_fill(~poisoned.valid[:, None], torch.nan), poisoned.valid)
        together = _run(layer, poisoned)
        for row, length in enumerate(lengths.tolist()):
            alone = _run(layer, Chunk.of(x[row : row + 1, :, :length]))
            frames = alone.x.shape[2]
            valid = together.valid[row : row + 1]
            expected = F.pad(alone.valid, (0, valid.shape[1] - frames))
            assert torch.equal(valid, expected), (
                f"{specimen}: {int(valid.sum())} valid frames of {length} in a batch, "
                f"{int(expected.sum())} alone"
            )
            assert_close(
                f"{specimen}, {length} frames in a batch of {x.shape[2]}",
                alone.masked,
                Chunk(together.x[row : row + 1, :, :frames], alone.valid).masked,
                rtol=1e-12,
            )
        _check_padding_in_training(specimen, poisoned)


def check_time_field_is_true(entry: Entry) -> None:
    """An output frame reads no more than `time`, `left` and `right` declare.

    The input before or after a position is changed, and the outputs that change show what they
    read.
    """
    for specimen in used(entry):
        before, after = 0, 0
        for frames, step in ((FRAMES, 1), (MANY, MANY // PLACES + 1)):
            end = frames * specimen.unit
            places = [*range(1, end, step * specimen.unit), end - 1]
            changed = [x for _, _, x in _changed(specimen, frames, places)]
            rows = torch.cat([specimen.input(1, frames=frames), *changed])
            base, *moved = _run(specimen.layer, Chunk.of(rows)).x.split(1)
            found = zip(_changed(specimen, frames, places), moved, strict=True)
            for (place, later, _), y in found:
                reach = _reach(specimen, base, y, place, later)
                before, after = max(before, reach[0]), max(after, reach[1])
        _check_reads(entry, specimen, before, after)


def check_time_field_in_training(entry: Entry) -> None:
    """The same in training, from a seed."""
    if entry.component.time == "utterance":
        return
    for specimen in used(entry):
        specimen.train()
        base = _seeded(specimen, specimen.input(1, frames=AHEAD))
        before = after = 0
        places = [part * AHEAD * specimen.unit // 5 + 1 for part in (0, 1, 3, 4)]
        for place, later, x in _changed(specimen, AHEAD, places):
            reach = _reach(specimen, base, _seeded(specimen, x), place, later)
            before, after = max(before, reach[0]), max(after, reach[1])
        _check_reads(entry, specimen, before, after, " in training")


def check_stream_equals_offline(entry: Entry) -> None:
    """Steps of any size give the same as forward; a layer that cannot stream raises StreamError.

    Results agree to 1e-12 in float64. With dyadic weights and outputs they are bitwise equal.
    """
    if entry.component.time == "utterance":
        _check_refusal(entry)
        return
    for specimen in used(entry):
        for frames, chunks in ((FRAMES, CHUNKS), (MANY, LARGE)):
            x = specimen.input(3, frames=frames)
            lengths = torch.tensor([x.shape[2], x.shape[2] // 2, 0])
            check_stream(specimen.layer, x, lengths, chunks)
    for specimen in specimens(entry):
        layer = specimen.layer.eval()
        dyadic_(layer)
        chance = torch.Generator().manual_seed(0)
        x = torch.randint(-3, 4, (2, specimen.frames, specimen.c_in), generator=chance).float()
        c = Chunk.of(x.transpose(1, 2), torch.tensor([specimen.frames, specimen.frames // 2]))
        if _is_dyadic(_run(layer, c).masked):
            check_stream(layer, c.x, c.lengths, CHUNKS, rtol=0)


def check_invalid_frames_are_skipped(entry: Entry) -> None:
    """Invalid frames at the start of a stream change nothing; for a `Recurrent` layer neither do
    those in between."""
    if entry.component.time == "utterance":
        return
    for specimen in used(entry):
        layer, x = specimen.layer, specimen.input()
        expected = _run(layer, Chunk.of(x))
        lead = 4 * layer.stride
        late = stream(layer, _with_gap(x, 0, lead), [3])
        late = Chunk(late.x[:, :, 4 * layer.rate :], late.valid[:, 4 * layer.rate :])
        pairs = [("after invalid frames at the start", late)]
        if isinstance(layer, Recurrent) and layer.stride == layer.rate:
            place = x.shape[2] // 2
            halted = _run(layer, _with_gap(x, place, lead))
            pairs.append(("after invalid frames in between", _cut(halted, place, lead)))
        for what, got in pairs:
            frames = expected.x.shape[2]
            same = torch.equal(got.valid[:, :frames], expected.valid)
            assert same, f"{specimen} {what}: valid differs"
            got = Chunk(got.x[:, :, :frames], expected.valid)
            assert_close(f"{specimen} {what}", expected.masked, got.masked, rtol=1e-12)


def check_memory_may_be_reused(entry: Entry) -> None:
    """Between steps the caller may overwrite the chunk it passed and the frames it received."""
    if entry.component.time == "utterance":
        return
    for specimen in used(entry):
        size = 2 * specimen.layer.stride
        x = specimen.input()
        blocks = [b for b in x.split(size, dim=2) if b.shape[2] == size]
        fresh = _steps(specimen, blocks, reuse=False, overwrite=False)
        for name, fault in (
            ("reuse", "keeps a view of the chunk that it was given"),
            ("overwrite", "keeps a view of the frames that it returned"),
        ):
            got = _steps(specimen, blocks, **{"reuse": False, "overwrite": False, name: True})
            same = all(map(torch.equal, fresh, got))
            assert same, f"{specimen}: step {fault}; what the caller writes there changes the next"


def check_state_is_a_fixed_tree(entry: Entry) -> None:
    """A step does not change its input state and returns one of the same structure; a single row
    can be reset."""
    if entry.component.time == "utterance":
        return
    for specimen in used(entry):
        layer, x = specimen.layer, specimen.input()
        first = layer.init_state(2, specimen.c_in, x.dtype, x.device)
        _check_tree(specimen, first, first)
        blocks = list(x.split(4 * layer.stride, dim=2))
        blocks = [block for block in blocks if not block.shape[2] % layer.stride]
        state = first
        for block in blocks:
            kept = tree_map(torch.clone, state)
            _, after = _step(layer, block, state)
            same = map(torch.equal, tree_leaves(kept), tree_leaves(state))
            assert all(same), f"{specimen}: step writes into the state that it is given"
            _check_tree(specimen, first, after)
            state = after
        # row 1 is reset, row 0 goes on
        mixed = tree_map(lambda old, new: torch.cat([old[:1], new[1:]]), state, first)
        went_on, began, both = state, first, mixed
        for block in blocks:
            row_0, went_on = _step(layer, block, went_on)
            row_1, began = _step(layer, block, began)
            got, both = _step(layer, block, both)
            want = Chunk(
                torch.cat([row_0.x[:1], row_1.x[1:]]), torch.cat([row_0.valid[:1], row_1.valid[1:]])
            )
            assert torch.equal(got.valid, want.valid), f"{specimen}: valid after a row was reset"
            assert_close(
                f"{specimen} after row 1 was reset",
                want.masked,
                Chunk(got.x, want.valid).masked,
                rtol=1e-12,
            )


def check_state_follows_the_device(entry: Entry) -> None:
    """`init_state` makes its tensors on the given device."""
    if entry.component.time == "utterance":
        return
    for specimen in used(entry):
        state = specimen.layer.init_state(2, specimen.c_in, torch.float32, "meta")
        devices = {leaf.device.type for leaf in tree_leaves(state) if isinstance(leaf, Tensor)}
        assert devices <= {"meta"}, (
            f"{specimen}: init_state(device='meta') makes a state on {', '.join(sorted(devices))}"
        )


def _run(layer: StreamLayer, c: Chunk) -> Chunk:
    with torch.no_grad():
        y: Chunk = layer(c)
    return y


def _step(layer: StreamLayer, x: Tensor, state: State) -> tuple[Chunk, State]:
    with torch.no_grad():
        return layer.step(Chunk.of(x), state)


def _with_gap(x: Tensor, place: int, frames: int) -> Chunk:
    """The input with invalid frames of NaN inserted at a position."""
    gap = x.new_full((*x.shape[:2], frames), torch.nan)
    parts = [x[:, :, :place], gap, x[:, :, place:]]
    valid = [torch.full_like(part[:, 0], part is not gap, dtype=torch.bool) for part in parts]
    return Chunk(cat_time(parts), torch.cat(valid, dim=1))


def _cut(c: Chunk, place: int, frames: int) -> Chunk:
    """The chunk without `frames` frames from a position on."""
    x = cat_time([c.x[:, :, :place], c.x[:, :, place + frames :]])
    return Chunk(x, torch.cat([c.valid[:, :place], c.valid[:, place + frames :]], dim=1))


def _steps(specimen: Specimen, blocks: list[Tensor], reuse: bool, overwrite: bool) -> list[Tensor]:
    """The outputs of steps, with one buffer for all chunks or with overwritten outputs."""
    layer, outputs = specimen.layer, []
    state = layer.init_state(len(blocks[0]), specimen.c_in, blocks[0].dtype)
    buffer = Chunk.of(_owned(blocks[0]))
    for block in blocks:
        c = buffer if reuse else Chunk.of(_owned(block))
        c.x.copy_(block)
        c.valid.fill_(True)
        with torch.no_grad():
            y, state = layer.step(c, state)
        intact = torch.equal(c.x, block) and bool(c.valid.all())
        assert intact, f"{specimen}: step writes into the chunk that it is given"
        outputs.append(y.masked)
        if overwrite:
            _overwrite(y.x, torch.nan)
            _overwrite(y.valid, False)
        if reuse:
            c.x.fill_(torch.nan)
            c.valid.fill_(False)
    return outputs


def _owned(x: Tensor) -> Tensor:
    return x.transpose(1, 2).clone(memory_format=torch.contiguous_format).transpose(1, 2)


def _overwrite(x: Tensor, value: float) -> None:
    # an expanded tensor cannot be written to in place
    x[tuple(slice(None) if stride else slice(1) for stride in x.stride())].fill_(value)


def _check_padding_in_training(specimen: Specimen, poisoned: Chunk) -> None:
    outputs = []
    for x in (poisoned.masked, poisoned.x):
        # a call in training may change the layer
        layer = copy.deepcopy(specimen.layer).train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            outputs.append(_run(layer, Chunk(x, poisoned.valid)).masked)
    zeros, nans = outputs
    assert_close(f"{specimen} in training, padded with NaN", zeros, nans, rtol=1e-12)


def _changed(
    specimen: Specimen, frames: int, places: Sequence[int]
) -> Iterator[tuple[int, bool, Tensor]]:
    """The input with a changed beginning or end, for each position of the first frame of the end;
    True if the end is changed."""
    x, other = (specimen.input(1, seed=seed, frames=frames) for seed in (0, 1))
    behind = torch.arange(x.shape[2])
    for place in places:
        for later in (True, False):
            yield place, later, torch.where((behind >= place) == later, other, x)


def _reach(specimen: Specimen, base: Tensor, y: Tensor, place: int, later: bool) -> tuple[int, int]:
    """The largest numbers of frames before and after its own that a changed output has read."""
    layer = specimen.layer
    noise = 1e-9 * float(base.abs().max()) if base.numel() else 0.0
    moved = ((y - base).abs().amax((0, 1)) > noise).nonzero().flatten()
    if not len(moved):
        return 0, 0
    own = moved * layer.stride // layer.rate
    return (0, place - int(own[0])) if later else (int(own[-1]) - place + 1, 0)


def _check_reads(entry: Entry, specimen: Specimen, before: int, after: int, mode: str = "") -> None:
    declared, left, right = entry.component.time, specimen.layer.left, specimen.layer.right
    found = f"{specimen}{mode}: frame t reads frames t-{before}..t+{after}"
    most_before, most_after = ALLOWED[declared]
    assert before <= most_before, f"declares time={declared!r}, but {found}"
    assert after <= most_after, f"declares time={declared!r}, but {found}"
    assert before <= left, f"{found}, but left is {left}"
    assert after <= right, f"{found}, but right is {right}"
    if declared == "lookahead":
        assert right < math.inf, f"declares time='lookahead', but right of {specimen} is inf"


def _seeded(specimen: Specimen, x: Tensor) -> Tensor:
    """The layer's output, with the same random numbers each time."""
    # a call in training may change the layer
    layer = copy.deepcopy(specimen.layer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _run(layer, Chunk.of(x)).x


def _check_refusal(entry: Entry) -> None:
    for specimen in used(entry):
        layer, x = specimen.layer, specimen.input()
        try:
            _step(layer, x[:, :, : layer.stride], layer.init_state(2, specimen.c_in, x.dtype))
        except StreamError:
            continue
        raise AssertionError(
            f"{specimen} declares time='utterance', but its step raises no StreamError "
            "that says what to use instead"
        )


def _is_dyadic(y: Tensor) -> bool:
    """True if all values are multiples of 2^-10 and so small that their sums are exact."""
    scaled = y * 1024
    return bool((scaled == scaled.round()).all() and (y.abs() < 2**12).all())


def _check_tree(specimen: Specimen, first: State, state: State) -> None:
    leaves, expected = tree_leaves(state), tree_leaves(first)
    assert len(leaves) == len(expected), (
        f"{specimen}: the state of {len(expected)} tensors becomes one of {len(leaves)}"
    )
    for one, other in zip(expected, leaves, strict=True):
        assert isinstance(other, Tensor), f"{specimen}: the state holds a {type(other).__name__}"
        assert other.shape[:1] == (2,), f"{specimen}: a state of {list(other.shape)} for 2 rows"
        assert (one.shape, one.dtype) == (other.shape, other.dtype), (
            f"{specimen}: the state goes from {list(one.shape)} {one.dtype} "
            f"to {list(other.shape)} {other.dtype}"
        )
