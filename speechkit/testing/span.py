"""An oracle for linear layers: sums over the edges of a span.

    y[target(e)] += weight[parameter(e)] · x[source(e)]      for every edge e

A layer is linear in its weights and its input exactly if it is such a sum; which weight belongs to
which edge tells a convolution from a dense layer. The oracle is slow and plain, for tests. Source:
Bergomi and Vertechi, Neural network layers as parametric spans, arXiv:2208.00809.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from speechkit.nn.conv import Conv


class Span(NamedTuple):
    """Edges as flat indices `[E]` into the input, the weights and the output of `size` numbers."""

    source: Tensor
    parameter: Tensor
    target: Tensor
    size: int

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        """The output `[size]` for any shapes of x and weight, as autograd sees it."""
        terms = weight.flatten()[self.parameter] * x.flatten()[self.source]
        return terms.new_zeros(self.size).index_add(0, self.target, terms)

    def transposed(self, size: int) -> "Span":
        """The span from outputs to inputs, which has `size` of them: the gradient of x."""
        return Span(self.target, self.parameter, self.source, size)


def convolution(
    c_in: int,
    c_out: int,
    kernel: int,
    frames: int,
    left: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
) -> Span:
    """The span of a convolution of x `[c_in, frames]` with weight `[c_out, c_in / groups, kernel]`.

    Output frame o has an edge from input frame o·stride − left + k·dilation for tap k, where there
    is one; y is `[c_out, ceil(frames / stride)]`.
    """
    out = -(-frames // stride)
    wide, narrow = c_in // groups, c_out // groups
    o, i, k, t = torch.cartesian_prod(
        torch.arange(c_out), torch.arange(wide), torch.arange(kernel), torch.arange(out)
    ).unbind(1)
    at = t * stride - left + k * dilation
    here = (at >= 0) & (at < frames)
    source = (o // narrow * wide + i) * frames + at
    parameter = (o * wide + i) * kernel + k
    return Span(source[here], parameter[here], (o * out + t)[here], c_out * out)


def convolution_of(layer: Conv, weight: Tensor, c_in: int, frames: int) -> Span:
    """The span of a layer that convolves `frames` frames of `c_in` channels with `weight`
    `[c_out, c_in / groups, kernel]`."""
    c_out, wide, kernel = weight.shape
    return convolution(
        c_in,
        c_out,
        kernel,
        frames,
        layer.left,
        stride=layer.stride,
        dilation=layer.dilation,
        groups=c_in // wide,
    )
