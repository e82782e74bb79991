"""The fused op against its reference: shapes, masks, precisions, activations, gradients."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from speechkit.errors import ConfigError
from speechkit.native.libraries import load
from speechkit.ops import Activation, separable_conv
from speechkit.ops.activation import NONE, activation_of
from speechkit.ops.separable_conv import Packed, Shape, cpu, pack
from speechkit.testing import assert_close

pytestmark = pytest.mark.usefixtures("poisoned_memory")

RELU = Activation("relu(x)")
BENT = Activation("where(x < -1, -0.2, where(x < 0.5, 0.3 * x + 0.1 * x * x, x - 0.325))")
# batch, frames, what is computed
CASES = [
    (1, 1, Shape(1, 1, 1)),
    (2, 40, Shape(8, 16, 5, activation=RELU)),
    (2, 33, Shape(3, 29, 33, padding=(16, 16))),
    (3, 64, Shape(5, 7)),
    (2, 31, Shape(6, 64, stride=2)),
    (2, 31, Shape(4, 18, 5, stride=2, padding=(3, 1), activation=RELU)),
    (1, 90, Shape(64, 130, 7, dilation=2, padding=(12, 0))),
    (2, 300, Shape(35, 50, 11, padding=(5, 5), activation=Activation("x * sigmoid(1.5 * x)"))),
    (2, 400, Shape(70, 20, 7, padding=(3, 3), activation=RELU)),
    (1, 120, Shape(20, 20, 3, padding=(1, 1), activation=BENT)),
    (1, 70, Shape(20, 20, 3, padding=(1, 1), activation=Activation("min(max(x, -5), 7)"))),
]
ACTIVATIONS = [
    NONE,
    RELU,
    BENT,
    Activation("min(max(x, 0), 2)"),
    Activation("silu(x)"),
    *(Activation(f"{name}(x)") for name in ("sigmoid", "tanh", "gelu", "sin", "softplus")),
    Activation("max(x, 0) + slope * min(x, 0)", (("slope", (0.25,)),)),
]


@pytest.fixture(params=["cpu", "torch"])
def impl(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name == "cpu" and isinstance(reason := load(cpu.SOURCE), str):
        pytest.skip(reason)
    return name


def weights(shape: Shape) -> tuple[Tensor | None, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    depthwise = torch.randn(shape.c_in, 1, shape.taps, generator=generator) if shape.taps else None
    pointwise = torch.randn(shape.c_out, shape.c_in, generator=generator)
    return depthwise, pointwise, torch.randn(shape.c_out, generator=generator)


def sound(batch: int, frames: int, shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    """An input with NaN where it is not valid, what is valid, and a residual."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(batch, frames, shape.c_in, generator=generator).transpose(1, 2)
    valid = torch.arange(frames) < frames - torch.arange(batch)[:, None]
    if shape.taps:
        # without taps each frame stands alone, and a NaN stays where it is
        x = x.masked_fill(~valid[:, None], torch.nan)
    out = batch, shape.frames_out(frames), shape.c_out
    return x, valid, torch.randn(out, generator=generator).transpose(1, 2)


def exactly(shape: Shape, x: Tensor, valid: Tensor, residual: Tensor | None) -> Tensor:
    """The reference in float64."""
    parts = [None if w is None else w.double() for w in weights(shape)]
    depthwise, pointwise, bias = parts
    assert pointwise is not None
    assert bias is not None
    packed = pack(replace(shape, precision="float32"), depthwise, pointwise, bias, "reference")
    return packed(x.double(), valid, None if residual is None else residual.double()).float()


def packed(shape: Shape, impl: str) -> Packed:
    return pack(shape, *weights(shape), impl)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(("batch", "frames", "shape"), CASES)
def test_output_equals_the_reference(
    impl: str, batch: int, frames: int, shape: Shape, residual: bool
) -> None:
    x, valid, more = sound(batch, frames, shape)
    rest = more if residual else None
    y = packed(shape, impl)(x, valid, rest)
    assert_close("y", exactly(shape, x, valid, rest), y, 2e-6)


@pytest.mark.parametrize(("precision", "error"), [("bfloat16", 0.02), ("int8", 0.03)])
@pytest.mark.parametrize(("batch", "frames", "shape"), CASES)
def test_lower_precisions_come_close(
    impl: str, batch: int, frames: int, shape: Shape, precision: str, error: float
) -> None:
    if precision == "int8" and impl == "torch":
        pytest.skip("torch has no int8")
    low = replace(shape, precision=precision)  # type: ignore[arg-type]
    x, valid, more = sound(batch, frames, shape)
    y = packed(low, impl)(x, valid, more)
    assert_close("y", exactly(shape, x, valid, more), y, error)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: a.text)
def test_activations_equal_torchs(impl: str, activation: Activation) -> None:
    shape = Shape(1, 1, activation=activation)
    values = torch.cat([torch.linspace(-20, 20, 999), torch.tensor([-1e4, 1e4])])
    identity = pack(shape, None, torch.ones(1, 1), torch.zeros(1), impl)
    expected = activation(values.double()[None, None])[0, 0].float()
    torch.testing.assert_close(identity(values[None, None])[0, 0], expected, atol=2e-6, rtol=2e-6)
    assert identity(torch.full((1, 1, 1), torch.nan)).isnan().all()


@pytest.mark.parametrize("activation", [NONE, RELU, BENT], ids=lambda a: a.text)
def test_infinity_makes_no_nan(impl: str, activation: Activation) -> None:
    ends = torch.tensor([[[-torch.inf, torch.inf]]])
    identity = pack(
        Shape(1, 1, activation=activation), None, torch.ones(1, 1), torch.zeros(1), impl
    )
    assert torch.equal(identity(ends), activation(ends))
    assert not activation(ends).isnan().any()


@pytest.mark.parametrize(("batch", "frames", "shape"), CASES)
def test_gradients_equal_the_references(impl: str, batch: int, frames: int, shape: Shape) -> None:
    x, valid, more = sound(batch, frames, shape)
    around = shape.stride, shape.dilation, shape.padding, shape.activation

    def gradients(name: str, dtype: torch.dtype) -> list[Tensor]:
        parts = [w.to(dtype).requires_grad_() for w in weights(shape) if w is not None]
        given = [v.detach().to(dtype).requires_grad_() for v in (x, more)]
        own = parts if shape.taps else [None, *parts]
        y = separable_conv(given[0], *own, *around, given[1], valid, name)  # type: ignore[arg-type]
        return list(torch.autograd.grad(y.square().sum(), [*parts, *given]))

    wanted = gradients("reference", torch.float64)
    for index, (ours, theirs) in enumerate(
        zip(gradients(impl, torch.float32), wanted, strict=True)
    ):
        assert_close(f"gradient {index}", theirs.float(), ours, 2e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_a_frame_does_not_depend_on_how_many_are_computed(precision: str) -> None:
    if isinstance(reason := load(cpu.SOURCE), str):
        pytest.skip(reason)
    shape = Shape(20, 50, 5, precision=precision)  # type: ignore[arg-type]
    op = packed(shape, "cpu")
    x, _, _ = sound(1, 250, replace(shape, taps=0))
    whole = op(x)
    part = op(x[:, :, 10:77].transpose(1, 2).contiguous().transpose(1, 2))
    assert torch.equal(whole[:, :, 10:73], part)


def test_the_custom_op_keeps_torchs_rules() -> None:
    if isinstance(reason := load(cpu.SOURCE), str):
        pytest.skip(reason)
    op = packed(Shape(5, 7, 3, padding=(1, 1)), "cpu")
    x, valid, more = sound(2, 20, op.shape)
    sizes = [7, 3, 1, 1, 1, 1]
    given = x.nan_to_num(), valid, *op.weights[:6], more, sizes, 0, 0
    torch.library.opcheck(torch.ops.speechkit.separable_conv, given)


def test_a_precision_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="it has no int8; use 'auto'"):
        packed(Shape(2, 2, precision="int8"), "torch")


def test_modules_print_what_they_are() -> None:
    class Own(nn.Module):
        expression = BENT.text

    class Changed(nn.ReLU):
        pass

    assert activation_of(nn.Hardtanh(-1, 2)) == Activation("min(max(x, -1.0), 2.0)")
    assert activation_of(Own()) == BENT
    assert activation_of(Changed()) is None
    x = torch.linspace(-3, 3, 50)
    leaky = activation_of(nn.LeakyReLU(0.1))
    assert leaky is not None
    torch.testing.assert_close(leaky(x), nn.LeakyReLU(0.1)(x))
