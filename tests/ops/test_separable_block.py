"""A residual block in one call: the bits of its parts, and the cases that run part by part."""

import copy

import pytest
import torch
from torch import Tensor

from speechkit.native.libraries import load
from speechkit.nn import Chunk, SeparableConv, SeparableResidual, Serial
from speechkit.ops import Activation
from speechkit.ops.activation import NONE
from speechkit.ops.separable_conv import PRECISIONS, Precision, Shape, cpu, pack
from speechkit.ops.separable_conv.block import Block

RELU = Activation("relu(x)")

pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.fixture(autouse=True)
def compiled() -> None:
    if isinstance(reason := load(cpu.SOURCE), str):
        pytest.skip(reason)


def conv(
    c_in: int, c_out: int, taps: int, act: Activation, precision: Precision, dilation: int = 1
) -> SeparableConv:
    generator = torch.Generator().manual_seed(c_out + taps)
    span = dilation * (max(taps, 1) - 1)
    padding = span // 2, span - span // 2
    shape = Shape(c_in, c_out, taps, 1, dilation, padding, act, precision)
    depthwise = torch.randn(c_in, 1, taps, generator=generator) if taps else None
    weights = torch.randn(c_out, c_in, generator=generator), torch.randn(c_out, generator=generator)
    return SeparableConv(pack(shape, depthwise, *weights, "cpu"))


def block(precision: Precision = "float32", act: Activation = RELU) -> SeparableResidual:
    head = Serial(conv(20, 48, 5, act, precision), conv(48, 40, 3, RELU, precision, dilation=2))
    last = conv(40, 36, 7, act, precision)
    return SeparableResidual(head, last, Serial(conv(20, 36, 0, NONE, precision)))


def sound(frames: int = 200) -> Chunk:
    x = torch.randn(2, frames, 20, generator=torch.Generator().manual_seed(3)).transpose(1, 2)
    return Chunk.of(x, torch.tensor([frames, frames - 30]))


def part_by_part(layer: SeparableResidual, c: Chunk) -> Tensor:
    y: Tensor = layer.last(layer.head(c), layer.shortcut(c).x).x
    return y


@pytest.mark.parametrize("act", [RELU, NONE, Activation("silu(x)")])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_block_gives_the_bits_of_its_parts(precision: Precision, act: Activation) -> None:
    layer, c = block(precision, act), sound()
    assert layer.block() is not None
    assert torch.equal(layer(c).x, part_by_part(layer, c))
    assert layer(c).x.shape == (2, 36, 200)


def test_a_hook_of_a_part_is_called() -> None:
    layer, c, seen = block(), sound(), []
    with layer.head[1].register_forward_hook(lambda *_: seen.append(1)):
        layer(c)
    layer(c)
    assert seen == [1]


def test_a_gradient_flows_through_the_parts() -> None:
    layer, c = block(), sound()
    y = layer(Chunk(c.x.requires_grad_(), c.valid)).x
    (dx,) = torch.autograd.grad(y.sum(), c.x)
    assert dx.abs().sum() > 0


def test_a_copy_and_a_part_that_was_replaced_have_their_own_weights() -> None:
    layer, c = block(), sound()
    before = layer(c).x
    twin = copy.deepcopy(layer)
    layer.last = conv(40, 36, 9, RELU, "float32")
    assert not torch.equal(layer(c).x, before)
    assert torch.equal(layer(c).x, part_by_part(layer, c))
    del layer
    assert torch.equal(twin(c).x, before)


def test_operations_that_are_recorded_are_those_of_the_parts() -> None:
    layer, c = block(), sound()
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
        assert not layer.block().can_take(c.x)
    graph = torch.export.export(layer, (c,), strict=False).graph
    names = [str(node.target) for node in graph.nodes]
    assert sum("separable_conv" in name for name in names) == 4


def test_a_part_with_a_stride_stands_alone() -> None:
    shape = Shape(20, 36, 3, 2, 1, (1, 1))
    weights = torch.randn(20, 1, 3), torch.randn(36, 20), torch.randn(36)
    assert not Block.can_hold(pack(shape, *weights, "cpu"))
