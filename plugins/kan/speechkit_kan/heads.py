"""Classifiers with a layer of learned functions."""

import re

from torch import nn

from speechkit.component import Spec
from speechkit.errors import ComponentError
from speechkit.nn import FrameWise, LogSoftmax, Pointwise, PooledHead, Serial, StreamLayer, as_layer
from speechkit.plugins import registry

Name = Spec | str


def kan_dense(
    channels: int,
    labels: int,
    layout: str = "FKF",
    hidden: int | None = None,
    kan: Name = "kan/bspline",
    pool: Name = "average",
) -> StreamLayer:
    """Logits of one utterance: a pool over time, then the layers of `kan_frame`."""
    pool_layer = registry().build("pool", pool, channels)
    return PooledHead(pool_layer, kan_frame(channels, labels, layout, hidden, kan))


def kan_frame(
    channels: int,
    labels: int,
    layout: str = "FKF",
    hidden: int | None = None,
    kan: Name = "kan/bspline",
) -> Serial:
    """Logits at every frame, from linear (F) and KAN (K) layers in series.

    There are `hidden` channels between the layers, as many as in the input if None. `kan` is any
    channel layer. Between two F there is a ReLU, so that "FF" is the control. FKF was the best
    layout of arXiv:2505.20176. Shape: `[B, C, T]` → `[B, labels, T]`.
    """
    if not re.fullmatch("[FK]+", layout):
        raise ComponentError(f"layout={layout!r}: give F (linear) and K (KAN) in a row, as FKF")
    sizes = [channels, *[hidden or channels] * (len(layout) - 1), labels]
    layers: list[StreamLayer] = []
    for place, letter in enumerate(layout):
        c_in, c_out = sizes[place : place + 2]
        if letter == "K":
            layers.append(as_layer(registry().build("channel", kan, c_in, c_out), c_out))
            continue
        if layout[:place].endswith("F"):
            layers.append(FrameWise(nn.ReLU()))
        layers.append(Pointwise(c_in, c_out, bias=True))
    return Serial(*layers)


def kan_ctc(
    channels: int,
    labels: int,
    layout: str = "FKF",
    hidden: int | None = None,
    kan: Name = "kan/bspline",
) -> Serial:
    """Log-probabilities of labels and blank (last) at every frame: the layers of `kan_frame`.

    Shape: `[B, C, T]` → `[B, labels + 1, T]`.
    """
    return Serial(kan_frame(channels, labels + 1, layout, hidden, kan), LogSoftmax())
