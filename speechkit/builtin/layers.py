"""The layers that the three papers need, offered through the same hooks as anyone's."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from speechkit.component import Component, Spec
from speechkit.hookspecs import hookimpl
from speechkit.nn import (
    AveragePool,
    BatchNorm,
    Bias,
    BodyMaker,
    Chunk,
    ClipHead,
    DepthwiseConv,
    Pointwise,
    RunningAverage,
    Serial,
    StreamLayer,
    plain_block,
)
from speechkit.plugins import registry


class Add(nn.Module):
    """y = shortcut + body."""

    def forward(self, shortcut: Tensor, body: Tensor) -> Tensor:
        return shortcut + body


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


def clip_head(
    channels: int, labels: int, pool: str | Mapping[str, Any] = "average"
) -> StreamLayer:
    pool_layer = registry().build("pool", Spec.parse(pool), channels)
    return ClipHead(pool_layer, Pointwise(channels, labels, bias=True))


@hookimpl
def speechkit_activations() -> list[Component]:
    component = partial(Component, time="frame", exports=frozenset({"torch", "torch.export"}))
    return [
        component(
            name="relu",
            factory=relu,
            summary="Rectified linear unit",
            formula="max(x, 0)",
            pointwise="max(x, 0)",
        ),
        component(
            name="silu",
            factory=silu,
            summary="Sigmoid-weighted linear unit (Swish with beta 1)",
            formula="x * sigmoid(x)",
            paper="arXiv:1702.03118",
            pointwise="x * sigmoid(x)",
        ),
        component(
            name="gelu",
            factory=gelu,
            summary="Gaussian error linear unit; approx=tanh for the older form",
            formula="x * (1 + erf(x / sqrt(2))) / 2",
            paper="arXiv:1606.08415",
        ),
        component(
            name="hardtanh",
            factory=hardtanh,
            summary="Linear between two bounds",
            formula="min(max(x, low), high)",
        ),
    ]


@hookimpl
def speechkit_norms() -> list[Component]:
    return [
        Component(
            name="batch",
            factory=BatchNorm,
            summary="Batch normalisation over valid frames; per frame in evaluation",
            formula="(x - mean) / sqrt(var + eps) * weight + bias",
            paper="arXiv:1502.03167",
            foldable=True,
        ),
        Component(
            name="none",
            factory=Bias,
            summary="No normalisation, only the bias a folded norm leaves",
            formula="x + bias",
        ),
    ]


@hookimpl
def speechkit_channel_layers() -> list[Component]:
    return [
        Component(
            name="linear", factory=Pointwise, summary="Plain 1×1 convolution", formula="W x + b"
        )
    ]


@hookimpl
def speechkit_mixers() -> list[Component]:
    return [
        Component(
            name="depthwise",
            factory=DepthwiseConv,
            summary="Depthwise convolution over time",
            formula="y[c, t] = sum_k w[c, k] x[c, t * stride + k * dilation - left]",
            time="lookahead",
        )
    ]


@hookimpl
def speechkit_residuals() -> list[Component]:
    return [
        Component(name="add", factory=add, summary="Additive residual", formula="shortcut + body")
    ]


@hookimpl
def speechkit_blocks() -> list[Component]:
    return [
        Component(
            name="plain",
            factory=plain_block,
            summary="Jasper/QuartzNet block: body, projected shortcut, merge, activation",
            formula="activation(merge(shortcut(x), body(x)))",
            paper="arXiv:1910.10261",
            time="lookahead",
        )
    ]


@hookimpl
def speechkit_stacks() -> list[Component]:
    return [
        Component(
            name="serial",
            factory=serial,
            summary="Blocks one after the other",
            formula="b_n(... b_1(x))",
            time="lookahead",
        )
    ]


@hookimpl
def speechkit_stems() -> list[Component]:
    return [
        Component(
            name="plain",
            factory=plain_stem,
            summary="The first block as the papers have it, without a residual",
            formula="activation(body(x))",
            paper="arXiv:1910.10261",
            time="lookahead",
        )
    ]


@hookimpl
def speechkit_heads() -> list[Component]:
    return [
        Component(
            name="ctc",
            factory=ctc_head,
            summary="Log-probabilities of labels and blank (last) at every frame",
            formula="log_softmax(W x + b)",
        ),
        Component(
            name="clip",
            factory=clip_head,
            summary="Logits of one utterance: a pool over time, then a linear layer",
            formula="W pool(x) + b",
            time="utterance",
        ),
        Component(
            name="frame",
            factory=frame_head,
            summary="Logits at every frame",
            formula="W x + b",
        ),
    ]


@hookimpl
def speechkit_pools() -> list[Component]:
    return [
        Component(
            name="average",
            factory=average,
            summary="Mean over the utterance's valid frames",
            formula="sum_t valid x / sum_t valid",
            time="utterance",
        ),
        Component(
            name="running",
            factory=running,
            summary="Mean over the valid frames so far",
            formula="sum_{s<=t} valid x / sum_{s<=t} valid",
            time="causal",
        ),
    ]
