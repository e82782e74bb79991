"""The oracle for linear layers, and the convolutions of the core against it."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from speechkit.nn import Chunk, DenseConv, DepthwiseConv, Pointwise
from speechkit.testing.span import Span, convolution, convolution_of


def test_it_is_the_convolution_of_torch_with_its_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 30, generator=generator, dtype=torch.float64, requires_grad=True)
    w = torch.randn(6, 2, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    span = convolution(4, 6, 5, 30, 4, stride=2, dilation=2, groups=2)
    y = span(x, w).view(6, -1)
    padded = F.conv1d(x[None], w, stride=2, padding=4, dilation=2, groups=2)[0]
    torch.testing.assert_close(y, padded, atol=1e-12, rtol=0)
    g = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    ours = torch.autograd.grad((y * g).sum(), (x, w), retain_graph=True)
    theirs = torch.autograd.grad((padded * g).sum(), (x, w))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)
    # the gradient of x is the span with source and target exchanged
    back = span.transposed(x.numel())(g, w.detach()).view(4, 30)
    torch.testing.assert_close(back, ours[0], atol=1e-12, rtol=0)


def test_the_transposed_span_is_the_transposed_convolution() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(3, 10, generator=generator, dtype=torch.float64)
    w = torch.randn(3, 2, 4, generator=generator, dtype=torch.float64)
    x = convolution(2, 3, 4, 13, 0)
    whole = F.conv_transpose1d(y[None], w)[0]
    kept = (x.target % 13 < 10).nonzero()[:, 0]
    cut = Span(x.source[kept], x.parameter[kept], x.target[kept], x.size).transposed(26)
    padded = F.pad(y, (0, 3))
    torch.testing.assert_close(cut(padded, w).view(2, 13), whole, atol=1e-12, rtol=0)


@settings(max_examples=60)
@given(
    kind=st.sampled_from(["depthwise", "dense", "pointwise"]),
    kernel=st.integers(1, 7),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 3),
    lookahead=st.one_of(st.just("same"), st.integers(0, 4)),
    frames=st.integers(1, 25),
    seed=st.integers(0, 9),
)
def test_every_convolution_of_the_core_is_its_span(
    kind: str, kernel: int, stride: int, dilation: int, lookahead: int | str, frames: int, seed: int
) -> None:
    torch.manual_seed(seed)
    shape = kernel, stride, dilation, lookahead
    c_in = 3
    layer = DepthwiseConv(c_in, *shape) if kind == "depthwise" else DenseConv(c_in, 4, *shape)  # type: ignore[arg-type]
    if kind == "pointwise":
        layer = DenseConv(c_in, 4, 1, stride, 1, 0)
    layer = layer.double()
    x = torch.randn(1, frames, c_in).double().transpose(1, 2).requires_grad_()
    y = layer(Chunk.of(x)).x
    weight = layer.weight
    expected = convolution_of(layer, weight, c_in, frames)(x[0], weight).view(y.shape[1:])
    bias = getattr(layer, "bias", None)
    if bias is not None:
        expected = expected + bias[:, None]
    torch.testing.assert_close(y[0], expected, atol=1e-10, rtol=0)
    g = torch.randn_like(y)
    ours, theirs = (torch.autograd.grad((z * g).sum(), (x, weight)) for z in (y, expected[None]))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=0)


def test_a_pointwise_layer_is_a_convolution_of_one_tap() -> None:
    layer = Pointwise(5, 3).double()
    x = torch.randn(1, 7, 5).double().transpose(1, 2)
    expected: Tensor = convolution(5, 3, 1, 7, 0)(x[0], layer.weight).view(3, 7)
    torch.testing.assert_close(layer(Chunk.of(x)).x[0], expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("wrong", [{"left": 1}, {"stride": 2}, {"dilation": 2}])
def test_a_wrong_edge_is_seen(wrong: dict[str, int]) -> None:
    torch.manual_seed(0)
    layer = DepthwiseConv(3, 5, 1, 1, 0).double()
    x = torch.randn(1, 12, 3).double().transpose(1, 2)
    y = layer(Chunk.of(x)).x[0]
    made = {"left": 4, **wrong}
    other = convolution(3, 3, 5, 12, made.pop("left"), groups=3, **made)(x[0], layer.weight)
    assert y.numel() != other.numel() or not torch.allclose(y.flatten(), other)
