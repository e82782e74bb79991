import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from speechkit.errors import ConfigError
from speechkit.native.libraries import load
from speechkit.ops import linear
from speechkit.ops.linear import cpu
from speechkit.testing import assert_close

pytestmark = pytest.mark.usefixtures("poisoned_memory")

# batch, frames, inputs, outputs
SHAPES = [
    *((1, 64, 1, 1), (2, 33, 5, 29), (1, 97, 64, 64), (3, 40, 17, 130), (2, 100, 256, 48)),
    (3, 700, 70, 20),
]


@pytest.fixture(autouse=True)
def compiled() -> None:
    if isinstance(reason := load(cpu.SOURCE), str):
        pytest.skip(reason)


def operands(shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    batch, frames, inputs, outputs = shape
    generator = torch.Generator().manual_seed(1)
    sizes = (batch, frames, inputs), (outputs, inputs), (outputs,)
    x, weight, bias = (torch.randn(size, generator=generator) for size in sizes)
    return x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()


@pytest.mark.parametrize("shape", SHAPES)
def test_output_and_gradients_equal_torchs(shape: tuple[int, ...]) -> None:
    given = operands(shape)
    y = linear(*given, impl="cpu")
    exact = [value.detach().double().requires_grad_() for value in given]
    expected = F.linear(*exact)
    assert_close("y", expected.float(), y, 1e-5)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
    grads = torch.autograd.grad(y, given, dy)
    wanted = torch.autograd.grad(expected, exact, dy.double())
    for name, ours, theirs in zip(("dx", "dw", "db"), grads, wanted, strict=True):
        assert_close(name, theirs.float(), ours, 1e-5)


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    x, weight, bias = (value.detach() for value in operands((1, 100, 40, 50)))
    whole = linear(x, weight, bias, impl="cpu")
    part = linear(x[:, 3:70].contiguous(), weight, bias, impl="cpu")
    assert torch.equal(whole[:, 3:70], part)


def test_what_it_cannot_take_goes_to_torch() -> None:
    x, weight, bias = (value.detach() for value in operands((1, 8, 4, 4)))
    assert torch.equal(linear(x, weight, bias, impl="cpu"), F.linear(x, weight, bias))
    assert torch.equal(linear(x[0], weight, bias, impl="cpu"), F.linear(x[0], weight, bias))
    many = torch.ones(1, 100, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(many, weight, bias, impl="cpu").dtype == torch.bfloat16
    with pytest.raises(ConfigError, match=r"float32, not torch\.float64 by torch\.float32"):
        linear(many.double(), weight, bias, impl="cpu")
    assert linear(many.double(), weight.double()).dtype == torch.float64


def test_the_custom_op_keeps_torchs_rules() -> None:
    torch.library.opcheck(torch.ops.speechkit.linear, operands((2, 40, 7, 18)))
    x, dy = torch.randn(2, 40, 7), torch.randn(2, 40, 18)
    torch.library.opcheck(torch.ops.speechkit.linear_weight, (x, dy))
