"""What makes the core's small layers, imported once a config names one of them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from speechkit.component import Spec
from speechkit.nn import (
    Add,
    AveragePool,
    BodyMaker,
    Chunk,
    ClipHead,
    Pointwise,
    RunningAverage,
    Serial,
    StreamLayer,
    plain_block,
)
from speechkit.plugins import registry


class LogSoftmax(StreamLayer):
    """y = x − log Σ_c exp x[c], in float32 at least. Shape: `[B, C, T]` → the same."""

    def forward(self, c: Chunk) -> Chunk:
        dtype = torch.promote_types(c.x.dtype, torch.float32)
        return Chunk(c.x.transpose(1, 2).log_softmax(2, dtype=dtype).transpose(1, 2), c.valid)


def relu(channels: int) -> nn.Module:
    return nn.ReLU()


def silu(channels: int) -> nn.Module:
    return nn.SiLU()


def gelu(channels: int, approx: str = "none") -> nn.Module:
    return nn.GELU(approx)


def hardtanh(channels: int, low: float = 0.0, high: float = 20.0) -> nn.Module:
    return nn.Hardtanh(low, high)


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


def clip_head(channels: int, labels: int, pool: str | Mapping[str, Any] = "average") -> StreamLayer:
    pool_layer = registry().build("pool", Spec.parse(pool), channels)
    return ClipHead(pool_layer, Pointwise(channels, labels, bias=True))
