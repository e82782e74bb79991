"""Other forms of a layer compute the same: folded, fused, native, as an expression, exported."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from speechkit.errors import CheckpointError, ComponentError
from speechkit.export import onnx, program
from speechkit.export.check import check as compare
from speechkit.export.graph import Graph, Step
from speechkit.export.simple import simplified
from speechkit.nn import (
    Chunk,
    FrameWise,
    Pointwise,
    Residual,
    Serial,
    StreamLayer,
    as_layer,
    fuse,
)
from speechkit.ops.activation import statement, values_of
from speechkit.ops.describes import describes
from speechkit.ops.torch_expressions import evaluate
from speechkit.plans.program import LoweringError
from speechkit.plugins import Entry
from speechkit.streaming.engines.native.layer import NativeLayer
from speechkit.testing.specimen import Specimen, used
from speechkit.testing.stream import assert_close, dyadic_

EXPORTS: dict[str, tuple[ModuleType, str]] = {
    "torch.export": (program, ".pt2"),
    "onnx": (onnx, ".onnx"),
}
"""The forms in `exports` besides "torch": the functions that write and run it, and its suffix."""
BLOCK_STRIDES = 4
"""The strides in a block of an exported step."""


def check_fuse_equals(entry: Entry) -> None:
    """`fuse()` exists if `foldable` is declared, and returns an equal module, also in a prepared
    net."""
    foldable = entry.component.foldable
    for specimen in used(entry):
        module = specimen.made
        simpler = module.fuse() if describes(module, "fuse") else module  # type: ignore[operator]
        if (simpler is not module) != foldable:
            has = "has no fuse()" if foldable else "has a fuse()"
            raise AssertionError(f"declares foldable={foldable}, but {specimen} {has}")
        if foldable:
            x, name = specimen.input(), f"{specimen} after fuse()"
            assert_close(name, _run(specimen.layer, x), _run(as_layer(simpler), x), rtol=1e-9)
    for specimen in used(entry, torch.float32):
        before = Pointwise(specimen.c_in, specimen.c_in).eval()
        # sums of two inputs round equally in both nets, so that only the specimen can differ
        dyadic_(before)
        net, x = Serial(before, specimen.layer), specimen.input(dtype=torch.float32)
        prepared = fuse(net)
        assert_close(f"{specimen} in a fused net", _run(net, x), _run(prepared, x), rtol=1e-5)


def check_expression_equals(entry: Entry) -> None:
    """The attribute `expression` states what the module computes."""
    for specimen in used(entry):
        module, x = specimen.made, 4 * specimen.input()
        text = statement(module)
        if text:
            try:
                y = evaluate(text, x, values_of(module, text))
            except ComponentError as error:
                raise AssertionError(str(error)) from error
            assert_close(f"{specimen}, expression {text!r}", _run(specimen.layer, x), y, rtol=1e-6)


def check_lowered_equals(entry: Entry) -> None:
    """In a net with native steps, `lower` returns the same as the layer."""
    for specimen in used(entry, torch.float32):
        made, c_in = specimen.made, specimen.c_in
        if not (describes(made, "lower") or statement(made)) or entry.component.time == "utterance":
            continue
        merges = entry.kind == "residual"
        layer = Residual(StreamLayer(), StreamLayer(), made) if merges else specimen.layer
        # audio has one channel, and native matrices need more
        net = Serial(Pointwise(c_in, c_in), layer).eval() if c_in > 1 else Serial(layer)
        block = BLOCK_STRIDES * net.stride
        try:
            native = NativeLayer(net, block, c_in=c_in)
        except LoweringError:
            # it may have no native form with these parameters, and there may be no compiler
            continue
        x = specimen.input(dtype=torch.float32)
        parts = x[:, :, : x.shape[2] // block * block].split(block, 2)
        want, got = _steps(net, parts), _steps(native, parts)
        assert torch.equal(want.valid, got.valid), f"{specimen}: other frames are valid natively"
        assert_close(f"{specimen} in a native step", want.masked, got.masked, rtol=1e-4)


def check_macs_grow_with_frames(entry: Entry) -> None:
    """`macs(frames)` is an integer from 0 up that does not decrease with more frames."""
    for specimen in used(entry):
        if describes(specimen.made, "macs"):
            found = [specimen.made.macs(n * specimen.unit) for n in (1, 25, 100)]  # type: ignore[operator]
            assert found == sorted(found), f"{specimen}: macs of 1, 25, 100 frames are {found}"
            assert all(type(n) is int and n >= 0 for n in found), f"{specimen}: macs are {found}"


def check_export_equals(entry: Entry) -> None:
    """Each form in `exports` returns the same, for whole utterances and for steps."""
    for form in sorted(entry.component.exports - {"torch"}):
        assert form in EXPORTS, f"exports has {form!r}; it knows torch, {', '.join(EXPORTS)}"
        first, *others = made = used(entry, torch.float32)
        for specimen in made:
            specimen.layer.requires_grad_(False)
        _check_graph(first, _whole_graph(first), form)
        if entry.component.time != "utterance" and not isinstance(first.layer, FrameWise):
            _check_graph(first, _step_graph(first), form)
        # an ONNX file takes seconds
        for specimen in others if form != "onnx" else ():
            _check_graph(specimen, _whole_graph(specimen), form)


def _check_graph(specimen: Specimen, graph: Graph, form: str) -> None:
    writer, suffix = EXPORTS[form]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"component{suffix}"
        try:
            writer.write(graph, path)
            compare(graph, writer.runner(path), tolerance=1e-4)
        except CheckpointError as error:
            raise AssertionError(f"{specimen} declares exports {form!r}, but {error}") from error


class _Whole(nn.Module):
    """Whole utterances over plain tensors: `[B, T, C]`, valid `[B, T]` → `[B, T', C']`, valid."""

    def __init__(self, layer: StreamLayer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        c = self.layer(Chunk(x.clone().transpose(1, 2), valid))
        return c.x.transpose(1, 2), c.valid


class _Step(Step):
    """A step over x `[B, T, C]`, so that an exporter sees the strides that layers are given."""

    def forward(self, x: Tensor, valid: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        return super().forward(x.clone().transpose(1, 2), valid, *states)


def _whole_graph(specimen: Specimen) -> Graph:
    layer, c = specimen.layer, Chunk.of(specimen.input(3, torch.float32))
    x, half = c.x.transpose(1, 2), c.x.shape[2] // 2
    ragged = Chunk.of(c.x, torch.tensor([c.x.shape[2], half, 3])).valid
    return Graph(
        module=_Whole(simplified(layer)),
        model=_Whole(layer),
        inputs=("x", "valid"),
        outputs=("y", "y_valid"),
        axes=({0: "batch", 1: "frames"}, {0: "batch", 1: "frames"}),
        trials=[[(x, ragged)], [(x[:1], c.valid[:1])], [(x[:, :half], c.valid[:, :half])]],
        start=lambda batch: [],
        metadata={},
    )


def _step_graph(specimen: Specimen) -> Graph:
    layer, c = specimen.layer, Chunk.of(specimen.input(3, torch.float32))
    block = BLOCK_STRIDES * layer.stride
    whole = c.x.shape[2] // block * block
    parts = c.x[:, :, :whole].transpose(1, 2).split(block, 1), c.valid[:, :whole].split(block, 1)
    blocks = list(zip(*parts, strict=True))
    step = _Step(layer, specimen.c_in, features=False)
    states = tuple(f"state_{i}" for i in range(len(step.start(1))))
    return Graph(
        module=_Step(simplified(layer), specimen.c_in, features=False),
        model=step,
        inputs=("x", "valid", *states),
        outputs=("y", "y_valid", *(f"{state}_out" for state in states)),
        axes=({0: "batch"},) * (2 + len(states)),
        trials=[blocks, [(x[:1], valid[:1]) for x, valid in blocks]],
        start=step.start,
        metadata={},
    )


def _run(layer: StreamLayer, x: Tensor) -> Tensor:
    with torch.no_grad():
        y: Tensor = layer(Chunk.of(x)).masked
    return y


@torch.no_grad()
def _steps(layer: StreamLayer, parts: Sequence[Tensor]) -> Chunk:
    """All that the steps over `parts` give."""
    state, made = layer.init_state(*parts[0].shape[:2]), []
    for part in parts:
        y, state = layer.step(Chunk.of(part), state)
        made.append(Chunk(y.x.clone(), y.valid.clone()))
    x, valid = zip(*made, strict=True)
    return Chunk(torch.cat(x, 2), torch.cat(valid, 1))
