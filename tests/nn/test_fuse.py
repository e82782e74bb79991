"""Fused layers give what the layers they are made of give, whole and chunk by chunk."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from speechkit.nn import (
    Add,
    Affine,
    BatchNorm,
    Bias,
    Chunk,
    DenseConv,
    DepthwiseConv,
    Dropout,
    FrameWise,
    Pointwise,
    Residual,
    SeparableConv,
    SeparableResidual,
    Serial,
    StreamLayer,
    fuse,
)
from speechkit.ops import Activation
from speechkit.testing import assert_close, check_stream

C = 24
LENGTHS = torch.tensor([90, 61])
Make = Callable[[], StreamLayer]


class Cubic(nn.Module):
    """An activation that no op knows."""

    def forward(self, x: Tensor) -> Tensor:
        return x + x**3 / 20


class Leaning(nn.Module):
    """One of a plugin that says which op's it is."""

    expression = "where(x < 0, 0.2 * x, x)"

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x < 0, 0.2 * x, x)


class Halved(nn.Module):
    """A norm of a plugin that says what it is in evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        return x / 2

    def fuse(self) -> Affine:
        return Affine(torch.full((C,), 0.5), torch.zeros(C))


class Mixed(StreamLayer):
    """A 1×1 layer of a plugin whose weight is made of two."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = nn.Parameter(torch.randn(C, 4)), nn.Parameter(torch.randn(4, C))

    def matrix(self) -> tuple[Tensor, None, int]:
        return self.low @ self.high, None, 1

    def forward(self, c: Chunk) -> Chunk:
        return Chunk(self.low @ (self.high @ c.x), c.valid)


class Simplified(StreamLayer):
    """A layer of a plugin that is simpler in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Serial(Pointwise(C, C), BatchNorm(C))

    def forward(self, c: Chunk) -> Chunk:
        y: Chunk = self.inner(c)
        return y

    def fuse(self) -> Serial:
        return self.inner


class Sum(nn.Module):
    """A merge of a plugin that is a sum."""

    adds = True

    def forward(self, shortcut: Tensor, body: Tensor) -> Tensor:
        return body + shortcut


class Larger(nn.Module):
    """A merge that no op knows."""

    def forward(self, shortcut: Tensor, body: Tensor) -> Tensor:
        return torch.maximum(shortcut, body)


def sub_block(
    kernel: int = 11,
    stride: int = 1,
    act: nn.Module | None = None,
    norm: bool = True,
    c_in: int = C,
    dilation: int = 1,
) -> Serial:
    """Depthwise, 1×1, norm, activation, as a block's body nests them."""
    mixer = DepthwiseConv(c_in, kernel, stride, dilation)
    parts = Serial(mixer, Pointwise(c_in, C), *([BatchNorm(C)] if norm else []))
    return Serial(parts, Serial(FrameWise(act))) if act else parts


def projection() -> Serial:
    return Serial(Pointwise(C, C), BatchNorm(C))


def dense(stride: int = 1) -> DenseConv:
    return DenseConv(C, C, 1, stride)


LAYERS: dict[str, Make] = {
    "sub-block": lambda: sub_block(act=nn.ReLU()),
    "no norm": lambda: sub_block(act=nn.ReLU(), norm=False),
    "nothing after": lambda: sub_block(norm=False),
    "even kernel": lambda: sub_block(kernel=6, act=nn.ReLU()),
    "stride": lambda: sub_block(stride=3, act=nn.ReLU()),
    "dilation": lambda: sub_block(dilation=2, act=nn.ReLU()),
    "other channels": lambda: sub_block(c_in=40, act=nn.ReLU()),
    "silu": lambda: sub_block(act=nn.SiLU()),
    "gelu": lambda: sub_block(act=nn.GELU()),
    "gelu by tanh": lambda: sub_block(act=nn.GELU("tanh")),
    "hardtanh": lambda: sub_block(act=nn.Hardtanh(-0.5, 1)),
    "expression": lambda: sub_block(act=Leaning()),
    "unknown activation": lambda: sub_block(act=Cubic()),
    "pointwise": lambda: Serial(Pointwise(C, C, bias=True), BatchNorm(C), FrameWise(nn.ReLU())),
    "dense of kernel 1": lambda: Serial(dense(), BatchNorm(C), FrameWise(nn.ReLU())),
    "dense of kernel 1, stride": lambda: Serial(dense(2), BatchNorm(C)),
    "dense of kernel 1 after depthwise": lambda: Serial(DepthwiseConv(C, 5), dense()),
    "stride between": lambda: Serial(DepthwiseConv(C, 7), dense(2)),
    "dense": lambda: Serial(DenseConv(C, C, 5), BatchNorm(C), FrameWise(nn.ReLU())),
    "depthwise alone": lambda: Serial(DepthwiseConv(C, 5), BatchNorm(C), FrameWise(nn.ReLU())),
    "two norms": lambda: Serial(projection(), BatchNorm(C), FrameWise(nn.ReLU())),
    "bias": lambda: Serial(Pointwise(C, C), FrameWise(Bias(C)), FrameWise(nn.ReLU())),
    "1×1 layer of a plugin": lambda: Serial(DepthwiseConv(C, 5), Mixed(), BatchNorm(C)),
    "simpler layer of a plugin": lambda: Serial(Simplified(), FrameWise(nn.ReLU())),
    "sum of a plugin": lambda: Residual(sub_block(), projection(), Sum()),
    "norm of a plugin": lambda: Serial(Pointwise(C, C), FrameWise(Halved())),
    "norm after activation": lambda: Serial(sub_block(act=nn.ReLU()), BatchNorm(C)),
    "norm alone": lambda: BatchNorm(C),
    "dropout": lambda: Serial(Pointwise(C, C), FrameWise(Dropout(0.5)), FrameWise(nn.ReLU())),
    "torch's dropout": lambda: Serial(Pointwise(C, C), FrameWise(nn.Dropout(0.5))),
    "nothing": lambda: Serial(),
    "residual": lambda: Serial(
        Residual(Serial(sub_block(act=nn.ReLU()), sub_block(5)), projection(), Add()),
        FrameWise(nn.ReLU()),
    ),
    "residual by itself": lambda: Residual(sub_block(), StreamLayer(), Add()),
    "residual, empty shortcut": lambda: Residual(sub_block(), Serial(), Add()),
    "residual, dilation": lambda: Residual(sub_block(7, dilation=3), projection(), Add()),
    "residual, later shortcut": lambda: Residual(projection(), sub_block(), Add()),
    "residual, slow shortcut": lambda: Residual(sub_block(), sub_block(5), Add()),
    "residual, activation inside": lambda: Residual(sub_block(act=nn.ReLU()), projection(), Add()),
    "residual, norm after": lambda: Serial(
        Residual(sub_block(), projection(), Add()), BatchNorm(C), FrameWise(nn.ReLU())
    ),
    "residual, stride first": lambda: Residual(
        Serial(sub_block(stride=2, act=nn.ReLU()), sub_block(5)), dense(2), Add()
    ),
    "unknown merge": lambda: Residual(
        Serial(sub_block(act=nn.ReLU()), sub_block(5)), projection(), Larger()
    ),
    "nested strides": lambda: Serial(
        sub_block(7), Serial(sub_block(5, 2, nn.ReLU()), sub_block(3), sub_block(5, 2)), sub_block()
    ),
    "nested strides at the front": lambda: Serial(
        Serial(sub_block(7), sub_block(5, 2, nn.ReLU())),
        Serial(sub_block(5), Serial(sub_block(7), sub_block(5, 2))),
    ),
}


def lively(layer: StreamLayer, dtype: torch.dtype = torch.float64) -> StreamLayer:
    """Weights and statistics that let nothing vanish, in evaluation."""
    generator = torch.Generator().manual_seed(3)
    for name, value in layer.state_dict().items():
        if name.endswith("running_var"):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        elif value.is_floating_point():
            # for layers of `fan_in` inputs, as large as they are
            fan_in = value[0].numel() if value.ndim > 1 else 4
            value.copy_(torch.randn(value.shape, generator=generator) * fan_in**-0.5)
    return layer.to(dtype).eval()


def noise(channels: int, dtype: torch.dtype = torch.float64) -> Tensor:
    shape = len(LENGTHS), int(LENGTHS.max()), channels
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator).to(dtype).transpose(1, 2)


def channels_in(layer: StreamLayer) -> int:
    first = next((p for p in layer.parameters() if p.ndim > 1), None)
    depthwise = first is not None and first.ndim == 3 and first.shape[1] == 1
    return C if first is None else first.shape[0 if depthwise else 1]


def ragged(x: Tensor) -> Chunk:
    """`LENGTHS` frames of `x`, and NaN after them."""
    c = Chunk.of(x, LENGTHS)
    return Chunk(torch.where(c.valid[:, :, None], x.transpose(1, 2), torch.nan).mT, c.valid)


def assert_equal(layer: StreamLayer, fused: StreamLayer, rtol: float) -> None:
    dtype = next((p.dtype for p in layer.parameters()), torch.float64)
    c = ragged(noise(channels_in(layer), dtype))
    with torch.no_grad():
        expected, got = layer(c), fused(c)
    assert torch.equal(expected.valid, got.valid)
    assert_close("fused", expected.masked, got.masked, rtol)


def assert_streams(layer: StreamLayer, fused: StreamLayer) -> None:
    assert (fused.delay, fused.stride, fused.rate) == (layer.delay, layer.stride, layer.rate)
    assert (fused.left, fused.right) == (layer.left, layer.right)
    channels = channels_in(layer)
    assert fused.channels_out(channels) == layer.channels_out(channels)
    check_stream(fused, noise(channels), LENGTHS)


def kinds(layer: StreamLayer) -> list[str]:
    """The types of the layers in a row, rows themselves apart."""
    if isinstance(layer, Serial):
        return [kind for part in layer for kind in kinds(part)]
    if isinstance(layer, FrameWise):
        return [type(layer.module).__name__]
    return [type(layer).__name__]


def only(make: Make) -> StreamLayer:
    """What a net is fused to, where that is a single layer."""
    fused = fuse(lively(make()), impl="torch")
    assert isinstance(fused, Serial)
    assert len(fused) == 1
    return fused[0]


@pytest.mark.parametrize("impl", ["torch", "reference"])
@pytest.mark.parametrize("name", LAYERS)
def test_equal_in_float64(name: str, impl: str) -> None:
    layer = lively(LAYERS[name]())
    assert_equal(layer, fuse(layer, impl=impl), 1e-12)


@pytest.mark.parametrize("impl", [None, "torch"])
@pytest.mark.parametrize("name", LAYERS)
def test_equal_in_float32(name: str, impl: str | None) -> None:
    layer = lively(LAYERS[name](), torch.float32)
    assert_equal(layer, fuse(layer, impl=impl), 1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_it_streams_as_it_did(name: str) -> None:
    layer = lively(LAYERS[name]())
    assert_streams(layer, fuse(layer, impl="torch"))


def test_a_residual_at_the_end_of_a_residual() -> None:
    inner = Residual(sub_block(), projection(), Add())
    layer = lively(Residual(Serial(sub_block(), inner), StreamLayer(), Add()))
    assert_equal(layer, fuse(layer, impl="torch"), 1e-12)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(lambda: sub_block(stride=2), id="alone"),
        pytest.param(lambda: Serial(sub_block(7, act=nn.ReLU()), dense(2)), id="after a delay"),
    ],
)
def test_a_stride_at_the_end_of_a_residual(body: Make) -> None:
    layer = lively(Residual(body(), dense(2), Add()))
    assert_streams(layer, fuse(layer, impl="torch"))


@pytest.mark.parametrize("name", LAYERS)
def test_the_original_stays_as_it_is(name: str) -> None:
    layer = lively(LAYERS[name]())
    before, text = copy.deepcopy(layer.state_dict()), str(layer)
    fuse(layer, impl="torch")
    assert str(layer) == text
    assert layer.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sub-block", ["SeparableConv"]),
        ("expression", ["SeparableConv"]),
        ("unknown activation", ["SeparableConv", "Cubic"]),
        ("pointwise", ["SeparableConv"]),
        ("dense of kernel 1, stride", ["SeparableConv"]),
        ("dense of kernel 1 after depthwise", ["SeparableConv"]),
        ("stride between", ["DepthwiseConv", "SeparableConv"]),
        ("dense", ["DenseConv", "Affine", "ReLU"]),
        ("two norms", ["SeparableConv"]),
        ("bias", ["SeparableConv"]),
        ("1×1 layer of a plugin", ["SeparableConv"]),
        ("simpler layer of a plugin", ["SeparableConv"]),
        ("sum of a plugin", ["SeparableResidual"]),
        ("norm of a plugin", ["SeparableConv"]),
        ("norm after activation", ["SeparableConv", "Affine"]),
        ("dropout", ["SeparableConv"]),
        ("residual", ["SeparableResidual"]),
        ("residual, empty shortcut", ["Residual"]),
        ("residual, later shortcut", ["Residual"]),
        ("residual, activation inside", ["Residual"]),
        ("residual, norm after", ["SeparableResidual", "Affine", "ReLU"]),
        ("unknown merge", ["Residual"]),
        ("nested strides", ["SeparableConv"] * 5),
    ],
)
def test_what_is_fused(name: str, expected: list[str]) -> None:
    assert kinds(fuse(lively(LAYERS[name]()), impl="torch")) == expected


def test_a_layer_inside_may_be_called_fuse() -> None:
    row = Serial(fuse=Pointwise(C, C), norm=BatchNorm(C))
    assert isinstance(row.fuse, Pointwise)
    assert kinds(fuse(lively(row), impl="torch")) == ["SeparableConv"]


def test_the_branches_of_an_unknown_merge_are_fused() -> None:
    fused = only(LAYERS["unknown merge"])
    assert isinstance(fused, Residual)
    assert kinds(fused.body) == ["SeparableConv", "SeparableConv"]
    assert kinds(fused.shortcut) == ["SeparableConv"]


def test_the_last_activation_of_a_residual_comes_after_the_sum() -> None:
    fused = only(LAYERS["residual"])
    assert isinstance(fused, SeparableResidual)
    assert fused.last.packed.shape.activation == Activation("relu(x)")
    assert kinds(fused.head) == ["SeparableConv"]


class DoubledConv(DepthwiseConv):
    def forward(self, c: Chunk) -> Chunk:
        return doubled(super().forward(c))

    def convolve(self, window: Tensor) -> Tensor:
        return 2 * super().convolve(window)


class DoubledDense(DenseConv):
    def convolve(self, window: Tensor) -> Tensor:
        return 2 * super().convolve(window)


class DoubledPointwise(Pointwise):
    def forward(self, c: Chunk) -> Chunk:
        return doubled(super().forward(c))


class DoubledSerial(Serial):
    def forward(self, c: Chunk) -> Chunk:
        return doubled(super().forward(c))


class DoubledResidual(Residual):
    def forward(self, c: Chunk) -> Chunk:
        return doubled(super().forward(c))


class DoubledAdd(Add):
    def forward(self, shortcut: Tensor, body: Tensor) -> Tensor:
        return 2 * super().forward(shortcut, body)


class DoubledReLU(nn.ReLU):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class DoubledNorm(BatchNorm):
    def forward(self, c: Chunk) -> Chunk:
        return doubled(super().forward(c))


class DoubledFrameWise(FrameWise):
    def forward(self, c: Chunk) -> Chunk:
        return doubled(super().forward(c))


class DoubledDropout(nn.Dropout):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class DoubledLeaning(Leaning):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def doubled(c: Chunk) -> Chunk:
    return Chunk(2 * c.x, c.valid)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: Serial(DoubledConv(C, 5), Pointwise(C, C)), id="depthwise"),
        pytest.param(lambda: Serial(DoubledDense(C, C, 1), BatchNorm(C)), id="dense"),
        pytest.param(lambda: Serial(DoubledPointwise(C, C), BatchNorm(C)), id="pointwise"),
        pytest.param(lambda: Serial(DoubledSerial(Pointwise(C, C)), BatchNorm(C)), id="serial"),
        pytest.param(lambda: DoubledResidual(sub_block(), projection(), Add()), id="residual"),
        pytest.param(lambda: Residual(sub_block(), projection(), DoubledAdd()), id="add"),
        pytest.param(lambda: sub_block(act=DoubledReLU()), id="relu"),
        pytest.param(
            lambda: Serial(Pointwise(C, C), DoubledNorm(C)),
            id="norm",
        ),
        pytest.param(
            lambda: Serial(Pointwise(C, C), DoubledFrameWise(nn.ReLU())),
            id="frame-wise",
        ),
        pytest.param(
            lambda: Serial(Pointwise(C, C), FrameWise(DoubledDropout())),
            id="dropout",
        ),
        pytest.param(
            lambda: sub_block(act=DoubledLeaning()),
            id="expression",
        ),
    ],
)
def test_a_subclass_is_not_taken_for_what_it_derives_from(make: Make) -> None:
    layer = lively(make())
    assert_equal(layer, fuse(layer, impl="torch"), 1e-12)


def test_an_empty_step_gives_no_frames() -> None:
    fused = only(LAYERS["stride"])
    assert isinstance(fused, SeparableConv)
    state = fused.init_state(2, C, torch.float64)
    y, after = fused.step(Chunk.of(noise(C)[:, :, :0]), state)
    assert y.x.shape == (2, C, 0)
    assert all(torch.equal(a, b) for a, b in zip(state, after, strict=True))
