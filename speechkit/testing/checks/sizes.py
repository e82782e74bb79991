"""Checks of a layer with other numbers of channels, rows and frames, and other precisions."""

import copy
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from speechkit.nn import Chunk, State, StreamLayer
from speechkit.plugins import Entry
from speechkit.testing.specimen import Specimen, used
from speechkit.testing.stream import assert_close, check_stream, stream

CHANNELS = 12
"""A number of channels that is not a power of two."""
ROWS = 5
LONG, CHUNK = 2000, 50
"""Frames of a long input, and strides in each of its steps."""
HALVES, HALF_RTOL = (torch.bfloat16, torch.float16), 5e-2
FEW, MANY = 100, 600
"""Frames in half precision; more for layers that count them: bfloat16 counts only up to 256."""
SHORTER, LONGER, MOST_GROWTH = 200, 800, 8.0
"""The largest growth of memory for four times the frames: it is 4 if memory grows with T, 5 with
T log T and 16 with T²."""


def check_channels_are_free(entry: Entry) -> None:
    """It works with 12 channels as well as with 8."""
    for specimen in used(entry, channels=CHANNELS):
        y = _run(specimen.layer, specimen.input())
        channels = specimen.layer.channels_out(specimen.c_in)
        made = f"{specimen} of {specimen.c_in} channels"
        assert specimen.c_out in (None, channels), f"{made}: channels_out is {channels}"
        assert y.x.shape[1] == channels, f"{made} gives {y.x.shape[1]}, not {channels}"


def check_rows_are_free(entry: Entry) -> None:
    """Five rows give the same as each row alone, and zero rows give zero, also in a stream."""
    for specimen in used(entry):
        layer, x = specimen.layer, specimen.input(ROWS)
        together = _run(layer, x)
        for row in range(ROWS):
            alone = _run(layer, x[row : row + 1])
            got = Chunk(together.x[row : row + 1], together.valid[row : row + 1])
            assert_close(f"{specimen}, row {row} of {ROWS}", alone.masked, got.masked, rtol=1e-12)
        if _streams(entry):
            check_stream(layer, x, chunks=(8,))
        none = x[:0]
        _check_empty(specimen, _run(layer, none), together, "no rows")
        if _streams(entry):
            state = layer.init_state(0, specimen.c_in, x.dtype)
            y, _ = _step(layer, none[:, :, : layer.stride], state)
            assert len(y.x) == 0, f"{specimen}: a step of no rows gives {len(y.x)}"


def check_short_inputs(entry: Entry) -> None:
    """Zero frames give zero frames, and one frame gives the same alone and in a padded row."""
    for specimen in used(entry):
        layer, x = specimen.layer, specimen.input()
        whole = _run(layer, x)
        _check_empty(specimen, _run(layer, x[:, :, :0]), whole, "no frames")
        if _streams(entry):
            state = layer.init_state(2, specimen.c_in, x.dtype)
            y, after = _step(layer, x[:, :, :0], state)
            assert y.x.shape[2] == 0, f"{specimen}: a step of no frames gives {y.x.shape[2]}"
            same = all(map(torch.equal, tree_leaves(state), tree_leaves(after)))
            assert same, f"{specimen}: a step of no frames changes the state"
            check_stream(layer, x[:, :, :1], chunks=(1,))
        alone = _run(layer, x[:, :, :1])
        with torch.no_grad():
            padded = layer(Chunk.of(x, torch.ones(len(x), dtype=torch.int64)))
        frames = alone.x.shape[2]
        assert_close(
            f"{specimen}, one frame alone and padded",
            Chunk(padded.x[:, :, :frames], padded.valid[:, :frames]).masked,
            alone.masked,
            rtol=1e-12,
        )


def check_long_inputs(entry: Entry) -> None:
    """2000 frames in float32 give finite output, equal in steps; the input does not change."""
    specimen = used(entry)[0]
    layer, x = specimen.layer, specimen.input(1, frames=LONG)
    kept = x.clone()
    y = _run(layer, x)
    assert torch.equal(x, kept), f"{specimen} writes into an input of {LONG} frames"
    single = _run(copy.deepcopy(layer).float(), x.float())
    for name, got in (("float64", y), ("float32", single)):
        finite = torch.isfinite(got.masked).all()
        assert finite, f"{specimen}: not finite in {name} after {LONG} frames"
    if _streams(entry):
        # sums over many frames have more rounding than in other checks
        check_stream(layer, x, chunks=(CHUNK,), rtol=1e-9)


def check_half_precision(entry: Entry) -> None:
    """bfloat16 and float16 stay within 5e-2 of float32, whole and in steps."""
    for specimen in used(entry, torch.float32):
        remembers = specimen.layer.left == math.inf
        x = 1 + 3 * specimen.input(1, torch.float32, frames=MANY if remembers else FEW)
        for dtype in HALVES:
            # float32 with the same weights and frames, so that only arithmetic differs
            half = copy.deepcopy(specimen.layer).to(dtype)
            rounded = x.to(dtype)
            expected = _run(copy.deepcopy(half).float(), rounded.float())
            whole = _run(half, rounded)
            outputs = {"": whole}
            if _streams(entry):
                # with one stride per step, a count grows in small steps, which bfloat16 loses
                with torch.no_grad():
                    steps = stream(half, Chunk.of(rounded), [1 if remembers else CHUNK])
                outputs[" in steps"] = Chunk(steps.x[:, :, : whole.x.shape[2]], whole.valid)
            for how, y in outputs.items():
                name = f"{specimen} in {str(dtype).removeprefix('torch.')}{how}"
                assert_close(name, expected.masked, y.masked.float(), HALF_RTOL)


def check_memory_grows_with_frames(entry: Entry) -> None:
    """Four times the frames take no more than eight times the memory."""
    for specimen in used(entry, torch.float32):
        layer = specimen.layer
        few, many = (
            _memory(layer, specimen.input(1, torch.float32, frames=frames))
            for frames in (SHORTER, LONGER)
        )
        assert many <= MOST_GROWTH * few, (
            f"{specimen}: {LONGER} frames take {many / few:.1f} times the memory of {SHORTER}"
        )


def check_stride_and_lookahead(entry: Entry) -> None:
    """A mixer or stem has the stride requested, and a mixer no more look-ahead than requested."""
    for specimen in used(entry):
        layer = specimen.layer
        stride = Fraction(layer.stride, layer.rate)
        assert stride == specimen.stride, f"{specimen}: its stride is {stride}"
        # with the whole utterance there is nothing to wait for
        most = specimen.lookahead if _streams(entry) else None
        assert most is None or layer.right <= most, f"{specimen}: its right is {layer.right}"


class _Traffic(TorchDispatchMode):
    """Counts the bytes of all new tensors; views need no memory."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = {_storage(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        made = func(*args, **(kwargs or {}))
        for x in tree_leaves(made):
            if isinstance(x, Tensor) and _storage(x) not in given:
                self.bytes += x.untyped_storage().nbytes()
        return made


def _storage(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


def _memory(layer: StreamLayer, x: Tensor) -> int:
    """The bytes of all tensors made in a forward pass."""
    traffic = _Traffic()
    with traffic:
        _run(layer, x)
    return traffic.bytes


def _check_empty(specimen: Specimen, y: Chunk, like: Chunk, what: str) -> None:
    # a layer that pools over time gives one frame for zero frames
    most = y.x.shape[0] * y.x.shape[2] if like.x.shape[2] > 1 else 0
    assert most == 0, f"{specimen}: {what} give {list(y.x.shape)}"
    assert y.x.shape[1] == like.x.shape[1], (
        f"{specimen}: {what} give {y.x.shape[1]} channels, not {like.x.shape[1]}"
    )
    assert torch.isfinite(y.masked).all(), f"{specimen}: {what} give numbers that are not finite"


def _streams(entry: Entry) -> bool:
    return entry.component.time != "utterance"


def _run(layer: StreamLayer, x: Tensor) -> Chunk:
    with torch.no_grad():
        y: Chunk = layer(Chunk.of(x))
    return y


def _step(layer: StreamLayer, x: Tensor, state: State) -> tuple[Chunk, State]:
    with torch.no_grad():
        return layer.step(Chunk.of(x), state)
