"""A block with a parallel convolution of learned functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor, nn

from speechkit.errors import ComponentError
from speechkit.nn import (
    Add,
    BatchNorm,
    BodyMaker,
    Pointwise,
    Residual,
    Serial,
    StreamLayer,
    plain_block,
)
from speechkit_kan.conv import ChebConv, KANConv, RadialConv, SplineConv
from speechkit_kan.edges import at_least

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value


class Gate(nn.Module):
    """y = body · (1 + sigmoid(shortcut))."""

    def forward(self, shortcut: Tensor, body: Tensor) -> Tensor:
        return body * (1 + shortcut.sigmoid())

    def lower(self, program: Lowering, shortcut: Value, body: Value) -> Value:
        """The same as one instruction of a native program."""
        return program.expression("b * (1 + sigmoid(a))", {}, shortcut, body)


MERGES = {"add": Add, "mult_sigmoid": Gate}
BASES: dict[str, Callable[..., KANConv]] = {
    "cheb": ChebConv,
    "bspline": SplineConv,
    "rbf": RadialConv,
}


def rkan(
    c_in: int,
    c_out: int,
    make_body: BodyMaker,
    index: int = 0,
    depth: int = 1,
    reduce: int = 4,
    kernel: int = 3,
    basis: str = "cheb",
    degree: int = 3,
    shared: bool = True,
    merge: str = "add",
    zero_gamma: bool = False,
    skip: int = 0,
) -> StreamLayer:
    """y = block(x) + BatchNorm(expand(kan_conv(reduce(x)))) with the block `plain`.

    `reduce` divides the channels of the branch. The taps are sums of Chebyshev polynomials up to
    `degree` ("cheb"), of B-splines ("bspline") or of Gaussians ("rbf"). `merge` "mult_sigmoid"
    multiplies the block by 1 + sigmoid of the branch instead. With `zero_gamma` an added branch
    starts at 0. The first `skip` blocks are plain blocks; the paper's best net has the branch at
    its end only. RKAN, arXiv:2410.05500.
    """
    at_least(reduce=(reduce, 1))
    if merge not in MERGES:
        raise ComponentError(f"merge={merge!r}: give one of {', '.join(MERGES)}")
    if basis not in BASES:
        raise ComponentError(f"basis={basis!r}: give one of {', '.join(BASES)}")
    block = plain_block(c_in, c_out, make_body, index, depth)
    if index < skip:
        return block
    narrow = max(1, c_in // reduce)
    shape = kernel, make_body.stride, 1, make_body.lookahead
    own = {"degree": degree} if basis == "cheb" else {}
    branch = Serial(
        reduce=Pointwise(c_in, narrow),
        kan=BASES[basis](narrow, *shape, shared=shared, **own),
        expand=Pointwise(narrow, c_out),
        norm=(norm := BatchNorm(c_out)),
    )
    if zero_gamma:
        nn.init.zeros_(norm.weight)
    return Residual(block, branch, MERGES[merge]())
