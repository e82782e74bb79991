"""Residual blocks of binary layers without norms."""

from __future__ import annotations

from speechkit.errors import ComponentError
from speechkit.nn import Bias, BodyMaker, FrameWise, Residual, Serial, StreamLayer
from speechkit_compression.binary import BinaryDepthwise, BinaryPointwise, Sign


def ab_bnn(
    c_in: int,
    c_out: int,
    make_body: BodyMaker,
    index: int = 0,
    depth: int = 1,
    weights: bool = True,
    alpha: float = 0.25,
) -> StreamLayer:
    """`repeat` × [unit over time, unit over channels]; a unit is

        y = f(shortcut(x) + alpha L(sign(β x + b₀)) + b₁) + b₂

    with a binary depthwise convolution of the row's kernel or a binary 1×1 layer as L, the net's
    activation f (`qprelu` in the paper) and biases for each channel. β = v^−½ for the expected
    variance v of x: 1 at first, and alpha² more after each unit. Where the number of channels
    changes, the shortcut is a binary 1×1 layer, and v is 1 after it. Without `weights` only the
    inputs of L are binary: the first of the two steps of training. The row's mixer, channel layer
    and norm are not used. Shape: `[B, c_in, T]` → `[B, c_out, T]`. Source: A&B BNN,
    arXiv:2403.03739; the unit over time, and that v begins anew in each block, are our choice.
    """
    make_body.narrow_only("ab_bnn")
    if not alpha > 0:
        raise ComponentError(f"block ab_bnn: alpha={alpha}; give a number above 0")
    shape = make_body.kernel, make_body.stride, make_body.dilation, make_body.lookahead
    units: list[StreamLayer] = []
    variance, same = 1.0, StreamLayer()

    def unit(body: StreamLayer, shortcut: StreamLayer, channels: int) -> Serial:
        total = Residual(body, shortcut, make_body.merge(channels, index, depth))
        before, last = (FrameWise(Bias(channels)) for _ in range(2))
        return Serial(sum=total, before=before, after=make_body.after(channels), last=last)

    for c in (c_in, *(c_out,) * (make_body.repeat - 1)):
        sign = FrameWise(Sign(c, variance**-0.5))
        conv = BinaryDepthwise(c, *shape, weights, alpha)
        units.append(unit(Serial(sign=sign, conv=conv), same, c))
        variance += alpha**2
        changes = c != c_out
        shortcut = BinaryPointwise(c, c_out, weights) if changes else same
        body = BinaryPointwise(c, c_out, weights, alpha, variance**-0.5)
        units.append(unit(body, shortcut, c_out))
        variance = 1.0 if changes else variance + alpha**2
    return Serial(*units)
