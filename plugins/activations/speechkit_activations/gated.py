"""Gated linear units: half of the channels are multiplied by a function of the other half."""

import math
from typing import Any

from torch import Tensor, nn

from speechkit.nn import Elementwise, FrameWise, Pointwise, Serial, StreamLayer

GATES = {
    "glu": "sigmoid(a) * b",
    "bilinear": "a * b",
    "reglu": "relu(a) * b",
    "geglu": "gelu(a) * b",
    "swiglu": "silu(a) * b",
}


class GLU(Elementwise):
    """y = g(a) · b with a the first half of the channels and b the second.

    g is sigmoid (`glu`), identity (`bilinear`), ReLU (`reglu`), GELU (`geglu`) or SiLU (`swiglu`).
    Shape: x `[B, 2C, T]`, y `[B, C, T]`. In `torch.nn.functional.glu` the halves are swapped.
    Shazeer, arXiv:2002.05202.
    """

    def __init__(self, channels: int, kind: str = "glu") -> None:
        super().__init__()
        if kind not in GATES:
            raise ValueError(f"kind={kind!r}: give one of {', '.join(GATES)}")
        self.expression = GATES[kind]


def bilinear(channels: int) -> GLU:
    return GLU(channels, "bilinear")


def reglu(channels: int) -> GLU:
    return GLU(channels, "reglu")


def geglu(channels: int) -> GLU:
    return GLU(channels, "geglu")


def swiglu(channels: int) -> GLU:
    return GLU(channels, "swiglu")


def glu_ffn(
    c_in: int, c_out: int, expansion: float = 8 / 3, kind: str = "swiglu", multiple_of: int = 1
) -> StreamLayer:
    """y = W₂ (g(W x) · V x) at every frame, without biases.

    The hidden width is expansion · c_in, rounded up to a multiple of `multiple_of`. With 8/3 the
    number of parameters is that of a plain feed-forward layer four times as wide as its input.
    Shape: `[B, c_in, T]` → `[B, c_out, T]`. Shazeer, arXiv:2002.05202.
    """
    hidden = math.ceil(int(expansion * c_in) / multiple_of) * multiple_of
    layer = Serial(
        wide=Pointwise(c_in, 2 * hidden),
        gate=FrameWise(GLU(hidden, kind), hidden),
        narrow=Pointwise(hidden, c_out),
    )
    if multiple_of == 1:
        layer.register_load_state_dict_pre_hook(_as_wide_as)  # type: ignore[no-untyped-call]
    return layer


def _as_wide_as(layer: nn.Module, weights: dict[str, Tensor], prefix: str, *others: Any) -> None:
    """Makes a layer as wide as its older weights: by default that was a multiple of 8."""
    wide, gate, narrow = layer.children()
    assert isinstance(wide, Pointwise)
    assert isinstance(gate, FrameWise)
    assert isinstance(narrow, Pointwise)
    c_out, hidden = narrow.weight.shape
    older = math.ceil(hidden / 8) * 8
    stored = weights.get(f"{prefix}narrow.weight")
    if stored is not None and stored.shape == (c_out, older):
        wide.weight.data = wide.weight.data.new_empty(2 * older, wide.weight.shape[1])
        narrow.weight.data = narrow.weight.data.new_empty(c_out, older)
        gate.c_out = older
