"""What a layer reads, and that it gives the same in a batch, alone and in a stream."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from speechkit.errors import StreamError
from speechkit.nn import Chunk, State, StreamLayer
from speechkit.plugins import Entry
from speechkit.testing.specimen import Specimen, specimens, used
from speechkit.testing.stream import assert_close, check_stream, dyadic_

ALLOWED = {
    "frame": (0, 0),
    "causal": (math.inf, 0),
    "lookahead": (math.inf, math.inf),
    "utterance": (math.inf, math.inf),
}
"""How many frames before and after its own an output frame may read, by `time`."""
PLACES = 100
"""The most input frames that are changed one by one."""
CHUNKS: tuple[int | list[int], ...] = (1, 2, 8, 50, [1, 3, 2])


def check_batch_rows_independent(entry: Entry) -> None:
    """In evaluation a row does not change with what is in another."""
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
    """Frames that are not valid are as if they were not there, whatever they hold."""
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
    """An output frame reads no more than `time`, `left` and `right` say: change each frame, look
    which outputs move."""
    declared = entry.component.time
    for specimen in used(entry):
        before, after = _reads(specimen)
        left, right = specimen.layer.left, specimen.layer.right
        found = f"{specimen}: frame t reads frames t-{before}..t+{after}"
        most_before, most_after = ALLOWED[declared]
        assert before <= most_before, f"declares time={declared!r}, but {found}"
        assert after <= most_after, f"declares time={declared!r}, but {found}"
        assert before <= left, f"{found}, but left is {left}"
        assert after <= right, f"{found}, but right is {right}"
        if declared == "lookahead":
            assert right < math.inf, f"declares time='lookahead', but right of {specimen} is inf"


def check_stream_equals_offline(entry: Entry) -> None:
    """Steps of any size give what forward gives; a layer that reads everything says what does.

    Float64 to 1e-12, and the same bits on dyadic weights where the answers are dyadic too.
    """
    if entry.component.time == "utterance":
        _check_refusal(entry)
        return
    for specimen in used(entry):
        x = specimen.input(3)
        lengths = torch.tensor([x.shape[2], x.shape[2] // 2, 0])
        check_stream(specimen.layer, x, lengths, CHUNKS)
    for specimen in specimens(entry):
        layer = specimen.layer.eval()
        dyadic_(layer)
        chance = torch.Generator().manual_seed(0)
        x = torch.randint(-3, 4, (2, specimen.frames, specimen.c_in), generator=chance).float()
        c = Chunk.of(x.transpose(1, 2), torch.tensor([specimen.frames, specimen.frames // 2]))
        if _is_dyadic(_run(layer, c).masked):
            check_stream(layer, c.x, c.lengths, CHUNKS, rtol=0)


def check_state_is_a_fixed_tree(entry: Entry) -> None:
    """A step leaves the state that it is given, returns one like it, and rows are reset alone."""
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
        # row 1 begins anew, row 0 goes on
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


def _run(layer: StreamLayer, c: Chunk) -> Chunk:
    with torch.no_grad():
        y: Chunk = layer(c)
    return y


def _step(layer: StreamLayer, x: Tensor, state: State) -> tuple[Chunk, State]:
    with torch.no_grad():
        return layer.step(Chunk.of(x), state)


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


def _reads(specimen: Specimen) -> tuple[int, int]:
    """How many frames before and after its own an output frame reads at most, in evaluation."""
    layer, x = specimen.layer, specimen.input(1)
    expected = _run(layer, Chunk.of(x)).x
    noise = 1e-9 * float(expected.abs().max())
    before = after = 0
    for frame in range(0, x.shape[2], -(-x.shape[2] // PLACES)):
        changed = x.clone()
        changed[:, :, frame] += specimen.input(1, seed=1)[:, :, frame]
        moved = (_run(layer, Chunk.of(changed)).x - expected).abs().amax((0, 1)) > noise
        for output in moved.nonzero().flatten().tolist():
            own = output * layer.stride // layer.rate
            before, after = max(before, own - frame), max(after, frame - own)
    return before, after


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
    """Whether all of it are multiples of 2^-10 small enough for sums of them to be exact."""
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
