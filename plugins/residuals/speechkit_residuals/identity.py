"""Residual blocks as in the first ResNets."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from speechkit.errors import ComponentError
from speechkit.nn import BodyMaker, FrameWise, Residual, Serial, StreamLayer
from speechkit_residuals.parts import chosen

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value

OPTIONS = "A", "B", "C"


class MatchChannels(nn.Module):
    """The first `channels` channels, padded with zeros. `[B, C, T]`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        missing = self.channels - x.shape[1]
        return nn.functional.pad(x.transpose(1, 2), (0, missing)).transpose(1, 2)

    def lower(self, program: Lowering, x: Value) -> Value:
        """The same as one instruction of a native program."""
        return program.part(x, 0, self.channels)


def identity(
    c_in: int,
    c_out: int,
    make_body: BodyMaker,
    index: int = 0,
    depth: int = 1,
    shortcut: str = "B",
    post_act: bool = True,
    zero_gamma: bool = False,
) -> StreamLayer:
    """y = activation(shortcut(x) + body(x)); the shortcut is the input where the shapes agree.

    Where channels change, option A pads with zeros and B projects. Option C projects in every
    block, as `plain` does. `zero_gamma` starts the body's last norm at 0, so that the sum is the
    shortcut. He et al., arXiv:1512.03385; zero_gamma: Goyal et al., arXiv:1706.02677.
    """
    chosen("block identity", "shortcut", shortcut, OPTIONS)
    body, wide = make_body(c_in, c_out), c_out * make_body.widening
    if zero_gamma:
        _silence(body)
    shortcuts: dict[str, Callable[[], StreamLayer]] = {
        "A": lambda: FrameWise(MatchChannels(wide), wide) if c_in != wide else StreamLayer(),
        "B": lambda: make_body.matched(c_in, c_out),
        "C": lambda: make_body.shortcut(c_in, c_out),
    }
    total = Residual(body, shortcuts[shortcut](), make_body.merge(wide, index, depth))
    # a gated activation reads twice the channels: without it they would remain doubled
    after = {"after": make_body.after(c_out)} if post_act or make_body.widening > 1 else {}
    return Serial(sum=total, **after)


def _silence(body: Serial) -> None:
    last = list(body)[-1]
    norm = list(last)[-1] if isinstance(last, Serial) else last
    module: Any = norm.module if isinstance(norm, FrameWise) else norm
    weight = getattr(module, "weight", None)
    if weight is None:
        raise ComponentError("block identity: zero_gamma=true needs a norm with a weight")
    nn.init.zeros_(weight)
