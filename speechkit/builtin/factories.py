"""Factories of the core's small layers, imported when a config names one of them."""

import speechkit.torch_required

from torch import nn

from speechkit.component import Spec
from speechkit.nn import (
    Add,
    AveragePool,
    BodyMaker,
    LogSoftmax,
    LookAhead,
    Pointwise,
    PooledHead,
    RnnMixer,
    RunningAverage,
    Serial,
    StreamLayer,
    plain_block,
)
from speechkit.plugins import registry


def identity(channels: int) -> nn.Module:
    return nn.Identity()


def relu(channels: int) -> nn.Module:
    return nn.ReLU()


def silu(channels: int) -> nn.Module:
    return nn.SiLU()


def gelu(channels: int, approx: str = "none") -> nn.Module:
    return nn.GELU(approx)


def hardtanh(channels: int, low: float = 0.0, high: float = 20.0) -> nn.Module:
    return nn.Hardtanh(low, high)


def gru(
    channels: int, kernel: int, stride: int, dilation: int, lookahead: LookAhead
) -> StreamLayer:
    """It reads all earlier frames, so kernel, dilation and look-ahead have no effect."""
    return RnnMixer(channels, stride, "gru")


def add(channels: int, index: int, depth: int) -> nn.Module:
    return Add()


def serial(blocks: list[StreamLayer]) -> StreamLayer:
    return Serial(*blocks)


def plain_stem(c_in: int, c_out: int, make_body: BodyMaker) -> StreamLayer:
    return plain_block(c_in, c_out, make_body)


def average(channels: int, nemo_compat: bool = False) -> StreamLayer:
    return AveragePool(nemo_compat)


def running(channels: int) -> StreamLayer:
    return RunningAverage()


def ctc_head(channels: int, labels: int) -> StreamLayer:
    return Serial(linear=Pointwise(channels, labels + 1, bias=True), softmax=LogSoftmax())


def frame_head(channels: int, labels: int) -> StreamLayer:
    return Serial(linear=Pointwise(channels, labels, bias=True))


def clip_head(channels: int, labels: int, pool: Spec | str = "average") -> StreamLayer:
    pool_layer = registry().build("pool", pool, channels)
    return PooledHead(pool_layer, Pointwise(channels, labels, bias=True))
