"""Triton's kernels against the references, over every shape that is easy to get wrong.

On a machine without a card `test_triton.py` runs this file under Triton's interpreter.
"""

import os
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit import Block, MarbleNet, build
from speechkit.nn import (
    Chunk,
    DepthwiseConv,
    FrameWise,
    Pointwise,
    SeparableConv,
    Serial,
    fuse,
)
from speechkit.ops import Activation, depthwise_conv, separable_conv
from speechkit.ops.activation import NONE
from speechkit.ops.depthwise_conv import reference
from speechkit.ops.separable_conv import ActiveRows, Packed, Ring, Shape, Shortcut, pack
from speechkit.ops.separable_conv import triton as ours
from speechkit.streaming.engines.cuda.ring_net import Memory, RingNet
from speechkit.testing import assert_close

# for torch's own products to be the same every time, which `poisoned_memory` asks for
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("there is no CUDA card; test_triton.py interprets these", allow_module_level=True)
pytest.importorskip("triton")
pytestmark = [
    pytest.mark.usefixtures("poisoned_memory"),
    *([] if INTERPRETED else [pytest.mark.gpu]),
]
DEVICE = "cpu" if INTERPRETED else "cuda"
# the interpreter rounds to bfloat16 by cutting off
ERRORS = {torch.float32: 3e-6, torch.float16: 3e-3, torch.bfloat16: 4e-2}

# batch, channels, frames, taps, stride, dilation, padding
FILTERS = [
    (1, 1, 1, 1, 1, 1, (0, 0)),
    (2, 3, 33, 33, 1, 1, (16, 16)),
    (3, 5, 20, 1, 1, 1, (0, 0)),
    (1, 4, 3, 7, 1, 1, (3, 3)),
    (2, 4, 31, 5, 2, 1, (3, 1)),
    (2, 4, 30, 4, 3, 1, (2, 0)),
    (1, 3, 41, 7, 1, 2, (12, 0)),
    (2, 4, 31, 4, 2, 2, (2, 5)),
    (1, 70, 20, 3, 1, 1, (1, 1)),
]


def noise(*shape: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator).to(DEVICE)


def ragged(batch: int, frames: int) -> Tensor:
    """Each row ends one frame earlier, and has a hole."""
    at = torch.arange(frames, device=DEVICE)
    ends = frames - torch.arange(batch, device=DEVICE)
    return (at < ends[:, None]) & (at != 2)


@pytest.mark.parametrize("shape", FILTERS)
def test_a_depthwise_convolution_and_its_gradients_are_the_references(
    shape: tuple[int, int, int, int, int, int, tuple[int, int]],
) -> None:
    batch, channels, frames, taps, stride, dilation, padding = shape
    valid = ragged(batch, frames)
    clean = noise(batch, frames, channels).transpose(1, 2).masked_fill(~valid[:, None], 0)
    x = clean.masked_fill(~valid[:, None], torch.nan).requires_grad_()
    weight = noise(channels, 1, taps, seed=2).requires_grad_()
    around = stride, dilation, padding, valid
    y = depthwise_conv(x, weight, *around, impl="triton")
    expected = reference.depthwise_conv(clean.requires_grad_(), weight, *around)
    dy = noise(*expected.shape, seed=3)
    assert_close("y", expected, y, 1e-13)
    grads = torch.autograd.grad(y, (x, weight), dy)
    wanted = torch.autograd.grad(expected, (clean, weight), dy)
    for name, got, theirs in zip(("dx", "dw"), grads, wanted, strict=True):
        assert_close(name, theirs, got, 1e-13)


@pytest.mark.parametrize("dtype", ERRORS)
def test_a_depthwise_convolution_sums_in_float32(dtype: torch.dtype) -> None:
    x = noise(1, 40, 5).to(dtype).transpose(1, 2).requires_grad_()
    weight = noise(5, 1, 33, seed=2)
    y = depthwise_conv(x, weight.float(), padding=(16, 16), impl="triton")
    expected = reference.depthwise_conv(x.double(), weight, 1, 1, (16, 16), None)
    assert y.dtype == dtype
    assert y.stride(1) == 1
    assert_close("y", expected.float(), y.float(), ERRORS[dtype])
    (dx,) = torch.autograd.grad(y.float().sum(), x)
    (wanted,) = torch.autograd.grad(expected.sum(), x)
    assert_close("dx", wanted.float(), dx.float(), ERRORS[dtype])


RELU = Activation("relu(x)")
BENT = Activation("where(x < -1, -0.2, where(x < 0.5, 0.3 * x + 0.1 * x * x, x - 0.325))")
# batch, frames, what is computed
CASES = [
    (1, 1, Shape(1, 1, 1)),
    (2, 23, Shape(8, 16, 5, activation=RELU)),
    (2, 33, Shape(3, 29, 33, padding=(16, 16))),
    (1, 3, Shape(4, 4, 7, padding=(3, 3), activation=RELU)),
    (3, 17, Shape(5, 7)),
    (2, 31, Shape(6, 20, stride=2)),
    (2, 31, Shape(4, 18, 5, stride=2, padding=(3, 1), activation=RELU)),
    (1, 40, Shape(40, 150, 7, dilation=2, padding=(12, 0))),
    (2, 70, Shape(35, 20, 3, padding=(1, 1), activation=Activation("x * sigmoid(1.5 * x)"))),
]


def weights(shape: Shape) -> tuple[Tensor | None, Tensor, Tensor]:
    depthwise = noise(shape.c_in, 1, shape.taps, seed=4) if shape.taps else None
    return depthwise, noise(shape.c_out, shape.c_in, seed=5), noise(shape.c_out, seed=6)


def packed(shape: Shape, impl: str, dtype: torch.dtype) -> Packed:
    depthwise, *rest = weights(shape)
    taps = None if depthwise is None else depthwise.to(dtype)
    return pack(shape, taps, *(w.to(dtype) for w in rest), impl=impl)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(("batch", "frames", "shape"), CASES)
def test_a_separable_convolution_is_the_references(
    batch: int, frames: int, shape: Shape, residual: bool
) -> None:
    x = noise(batch, frames, shape.c_in).transpose(1, 2)
    valid = ragged(batch, frames)
    if shape.taps:
        # without taps each frame stands alone, and a NaN stays where it is
        x = x.masked_fill(~valid[:, None], torch.nan)
    more = noise(batch, shape.frames_out(frames), shape.c_out, seed=7).transpose(1, 2)
    more = more if residual else None
    expected = packed(shape, "reference", torch.float64)(x, valid, more)
    rest = None if more is None else more.float()
    y = packed(shape, "triton", torch.float32)(x.float(), valid, rest)
    assert_close("y", expected.float(), y, ERRORS[torch.float32])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_products_in_half_precision_come_close(dtype: torch.dtype) -> None:
    shape = Shape(40, 50, 5, padding=(2, 2), activation=RELU)
    x = noise(2, 20, 40).to(dtype)
    expected = packed(shape, "reference", torch.float64)(x.double().transpose(1, 2))
    y = packed(shape, "triton", dtype)(x.transpose(1, 2))
    assert y.dtype == dtype
    assert_close("y", expected.float(), y.float(), ERRORS[dtype])
    if dtype == torch.bfloat16:
        low = packed(replace(shape, precision="bfloat16"), "triton", torch.float32)
        y = low(x.float().transpose(1, 2))
        assert y.dtype == torch.float32
        assert_close("y", expected.float(), y, ERRORS[dtype])


ACTIVATIONS = [
    *(NONE, RELU, BENT),
    *(Activation("min(max(x, 0), 2)"), Activation("x * sigmoid(-0.3 * x)")),
    *(Activation(f"{name}(x)") for name in ("silu", "sigmoid", "tanh", "gelu")),
]


# numpy, which interprets, says so; infinity is what it should be
@pytest.mark.filterwarnings("ignore:overflow encountered in exp")
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: a.text)
def test_activations_equal_torchs(activation: Activation) -> None:
    shape = Shape(1, 1, activation=activation)
    values = torch.cat([torch.linspace(-20, 20, 99), torch.tensor([-1e4, 1e4])]).to(DEVICE)
    ones = torch.ones(1, 1, device=DEVICE), torch.zeros(1, device=DEVICE)
    identity = pack(shape, None, *ones, impl="triton")
    expected = activation(values.double()).float()
    torch.testing.assert_close(identity(values[None, None])[0, 0], expected, atol=2e-6, rtol=3e-6)
    assert identity(torch.full((1, 1, 1), torch.nan, device=DEVICE)).isnan().all()


EXPRESSIONS = {
    "abs(x) - 2": lambda x: x.abs() - 2,
    "exp(min(x, 3))": lambda x: x.clamp(max=3).exp(),
    "log(abs(x) + 1) / 2": lambda x: (x.abs() + 1).log() / 2,
    "-sqrt(abs(x))": lambda x: -x.abs().sqrt(),
    "max(x, -0.5) * erf(x)": lambda x: x.clamp(min=-0.5) * x.erf(),
    "where(x <= 0, 0.5 * x, tanh(x))": lambda x: torch.where(x <= 0, 0.5 * x, x.tanh()),
    "x ** 3 - 1 / x": lambda x: x**3 - 1 / x,
    "pow(abs(x), 1.5)": lambda x: x.abs() ** 1.5,
    "asin(x / 6) + atan(x)": lambda x: (x / 6).asin() + x.atan(),
    "log1p(abs(x)) + expm1(x / 9)": lambda x: x.abs().log1p() + (x / 9).expm1(),
    "sign(x) + round(x / 3) + floor(x) + ceil(x)": lambda x: (
        x.sign() + (x / 3).round() + x.floor() + x.ceil()
    ),
    "sin(x) + cos(x) + sinc(x)": lambda x: x.sin() + x.cos() + torch.sinc(x / torch.pi),
    "sinh(x / 3) + cosh(x / 3) + asinh(x)": lambda x: (x / 3).sinh() + (x / 3).cosh() + x.asinh(),
    "softplus(x) + silu(x) + gelu(x) + relu(x)": lambda x: (
        F.softplus(x) + F.silu(x) + F.gelu(x) + x.relu()
    ),
    "max(x, 1e999) - 1e999": lambda x: torch.full_like(x, torch.nan),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("text", EXPRESSIONS)
def test_kernels_of_expressions_equal_torch(text: str) -> None:
    shape = Shape(1, 1, activation=Activation(text))
    ones = torch.ones(1, 1, device=DEVICE), torch.zeros(1, device=DEVICE)
    x = torch.linspace(-6, 5.9, 99, device=DEVICE)
    got = pack(shape, None, *ones, impl="triton")(x[None, None])[0, 0]
    torch.testing.assert_close(got, EXPRESSIONS[text](x), atol=2e-6, rtol=3e-6, equal_nan=True)


class Mish(nn.Module):
    """x · tanh(log(1 + exp(x))), Misra, arXiv:1908.08681."""

    expression = "x * tanh(log(1 + exp(x)))"

    def forward(self, x: Tensor) -> Tensor:
        return F.mish(x)


def test_the_activation_of_a_plugin_joins_by_its_expression() -> None:
    layer = Serial(DepthwiseConv(8, 5), Pointwise(8, 12), FrameWise(Mish())).eval().to(DEVICE)
    (fused,) = fuse(layer, impl="triton")
    assert isinstance(fused, SeparableConv)
    c = Chunk.of(noise(2, 20, 8).float().transpose(1, 2))
    with torch.no_grad():
        assert_close("y", layer(c).x, fused(c).x, ERRORS[torch.float32])
    # with a number for each channel it stays a layer
    apart = Serial(Pointwise(8, 12), FrameWise(nn.PReLU(12))).eval().to(DEVICE)
    assert len(list(fuse(apart, impl="triton"))) == 2
    assert len(list(fuse(apart, impl="torch"))) == 1


def test_a_net_in_rings_gives_the_references_scores() -> None:
    blocks = (
        Block(channels=20, kernel=5, stride=2),
        Block(channels=16, kernel=7, repeat=2, residual=True),
        Block(channels=16, kernel=5, dilation=2),
    )
    frontend = "log_mel:n_mels=16,normalize=fixed"
    config = MarbleNet(frame_level=True, blocks=blocks, frontend=frontend, lookahead=1)
    layer = build(config).eval().to(DEVICE).stream_layer()
    x, found = noise(2, 30 * layer.stride).float() / 10, []
    for impl in ("triton", "reference"):
        net = RingNet(layer, impl=impl)
        memory = Memory(net, 3, 10, DEVICE)
        active = ActiveRows(torch.tensor([2, -1, 0], device=DEVICE), memory.counts, 10)
        real = torch.full((3,), 10 * layer.stride, device=DEVICE)
        parts = []
        for part in x.split(10 * layer.stride, dim=1):
            y = net.step(memory, active, part[[0, 0, 1]], real)
            parts.append(y.masked[::2])
        found.append(torch.cat(parts, dim=2))
    assert_close("scores", found[1], found[0], 1e-5)


def test_gradients_are_the_references() -> None:
    shape, given = Shape(6, 9, 5, padding=(2, 2), activation=RELU), []
    for impl, dtype in (("triton", torch.float32), ("reference", torch.float64)):
        parts = [w.to(dtype).requires_grad_() for w in weights(shape) if w is not None]
        x = noise(2, 14, 6).to(dtype).transpose(1, 2).requires_grad_()
        y = separable_conv(
            x, *parts, padding=(2, 2), activation=RELU, valid=ragged(2, 14), impl=impl
        )
        given.append(torch.autograd.grad(y.square().sum(), [x, *parts]))
    for index, (got, wanted) in enumerate(zip(*given, strict=True)):
        assert_close(f"gradient {index}", wanted.float(), got, 2e-5)


# frames of a stride of the net, strides, sessions, frames that the input is late, what is computed
STEPS = [
    (1, 1, 1, 0, Shape(1, 1, 1)),
    (1, 1, 5, 0, Shape(8, 16, 5, padding=(4, 0), activation=RELU)),
    (1, 3, 5, 2, Shape(5, 7, 5, padding=(2, 2), activation=RELU)),
    (2, 2, 3, 0, Shape(5, 40, 4, dilation=2, padding=(6, 0))),
    (1, 2, 4, 1, Shape(6, 5, 5, stride=2, padding=(3, 1), activation=RELU)),
    (1, 16, 3, 0, Shape(20, 18, 33, padding=(16, 16))),
    (1, 4, 20, 0, Shape(40, 150)),
    (1, 5, 3, 3, Shape(4, 6, stride=2)),
]
SHORTCUTS = ["none", "plain", "projected"]


def ring(rows: int, frames: int, channels: int, rate: int, seed: int) -> Ring:
    """A ring in mid-stream, within more memory, whose frames are partly not valid."""
    memory = noise(rows, frames + 1, channels + 2, seed=seed)
    memory = memory.flatten(1)[:, : frames * channels].unflatten(1, (frames, channels))
    valid = torch.rand(rows, frames, generator=torch.Generator().manual_seed(seed)) < 0.8
    valid = valid.to(DEVICE)
    return Ring(memory * valid[:, :, None], valid.to(torch.uint8), rate)


def poisoned(given: Ring, counts: Tensor, slots: Tensor, keep: int, new: int) -> Ring:
    """With NaN in all rows but those of `slots`, and there in all but `keep` and `new` frames."""
    rows, frames = given.valid.shape
    at = (counts * given.rate)[:, None] + torch.arange(-keep, new, device=DEVICE)
    unread = torch.ones(rows, frames, dtype=torch.bool, device=DEVICE)
    unread[slots[:, None], at[slots] % frames] = False
    return replace(given, frames=given.frames.masked_fill(unread[:, :, None], torch.nan))


def copied(given: Ring, dtype: torch.dtype) -> Ring:
    return Ring(given.frames.to(dtype), given.valid.clone(), given.rate)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("shortcut", SHORTCUTS)
@pytest.mark.parametrize(("rate", "strides", "sessions", "wait", "shape"), STEPS)
def test_a_step_is_the_references(
    monkeypatch: pytest.MonkeyPatch,
    rate: int,
    strides: int,
    sessions: int,
    wait: int,
    shape: Shape,
    shortcut: str,
    split: bool,
) -> None:
    if split and not shape.taps:
        pytest.skip("there is nothing to split")
    chosen = ours.tiling(64, shape, True, torch.float32)._replace(split=split)
    monkeypatch.setattr(ours, "tiling", lambda *_: chosen)
    rows, frames, c_more = sessions + 2, strides * rate, 11
    rate_in, keep = rate * shape.stride, sum(shape.padding) + wait
    source = ring(rows, keep + strides * rate_in + 2, shape.c_in, rate_in, seed=8)
    target = ring(rows, frames + 3, shape.c_out, rate, seed=9)
    channels = c_more if shortcut == "projected" else shape.c_out
    other = ring(rows, frames + 4, channels, rate, seed=10)
    counts = torch.arange(rows, device=DEVICE) * 7
    # in any order, one of them nobody's
    slots = torch.randperm(sessions, generator=torch.Generator().manual_seed(3)).to(DEVICE)
    if sessions > 1:
        slots[1] = -1
    source = poisoned(source, counts, slots, keep, strides * rate_in)
    other = poisoned(other, counts, slots, 4, frames)
    active = ActiveRows(slots, counts, strides)
    results = []
    for impl, dtype in (("reference", torch.float64), ("triton", torch.float32)):
        made, more = copied(target, dtype), None
        if shortcut != "none":
            plain = Shape(c_more, shape.c_out)
            _, matrix, bias = weights(plain)
            part = pack(plain, None, matrix.to(dtype), 0 * bias.to(dtype), impl=impl)
            more = Shortcut(copied(other, dtype), 4, part if shortcut == "projected" else None)
        op = packed(shape, impl, dtype)
        op.step(copied(source, dtype), made, active, wait, more)
        results.append(made)
    expected, got = results
    # the last row is nobody's, and what it holds does not matter
    assert_close("y", expected.frames[:-1].float(), got.frames[:-1], ERRORS[torch.float32])
    assert torch.equal(expected.valid[:-1], got.valid[:-1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_state_in_half_precision_comes_close(dtype: torch.dtype) -> None:
    shape = Shape(20, 18, 9, padding=(8, 0), activation=RELU)
    source, target = ring(4, 12, 20, 1, seed=8), ring(4, 4, 18, 1, seed=9)
    source = copied(copied(source, dtype), torch.float64)
    active = ActiveRows(torch.arange(3, device=DEVICE), torch.full((4,), 5, device=DEVICE), 4)
    packed(shape, "reference", torch.float64).step(source, target, active)
    made = Ring(torch.zeros_like(target.frames, dtype=dtype), target.valid.clone(), 1)
    packed(shape, "triton", dtype).step(copied(source, dtype), made, active)
    assert_close("y", target.frames[:3].float(), made.frames[:3].float(), ERRORS[dtype])
