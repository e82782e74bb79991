"""A channel layer of keys and values, which every frame reads with weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from speechkit.errors import ComponentError
from speechkit.nn import FrameWise, Pointwise, Serial
from speechkit_mixers.norms import HeadNorm

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value


class ChannelSoftmax(nn.Module):
    """y = softmax(x) over the channels of a frame. Shape: `[B, C, T]` → the same."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).softmax(2).transpose(1, 2)

    def lower(self, program: Lowering, x: Value) -> Value:
        """The logarithm's instruction, then e to its power."""
        return program.expression("exp(x)", {}, program.emit("log_softmax", x))


ACTS = {"softmax": ChannelSoftmax, "relu": nn.ReLU}


def kv_memory(
    c_in: int, c_out: int, slots: int = 0, act: str = "softmax", ln: bool = True
) -> Serial:
    """y = LN(V f(K x)): f gives the weights of `slots` keys K, whose values V are summed.

    f is the softmax over the slots, or the ReLU, with which it is a feed-forward layer. There are
    4 · c_in slots by default. With `ln` the sum is normalised, so that its variance does not depend
    on f. Shape: `[B, C, T]` → `[B, C', T]`; K `[slots, C]`, V `[C', slots]`. Shen et al.,
    arXiv:2302.06461.
    """
    slots = slots or 4 * c_in
    if slots < 1 or act not in ACTS:
        raise ComponentError(
            f"channel kv_memory: slots={slots}, act={act!r}; give at least 1 slot, act "
            f"{' or '.join(ACTS)}"
        )
    norm = {"norm": FrameWise(HeadNorm(c_out, 1))} if ln else {}
    return Serial(
        keys=Pointwise(c_in, slots),
        weights=FrameWise(ACTS[act]()),
        values=Pointwise(slots, c_out),
        **norm,
    )
