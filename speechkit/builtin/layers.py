"""The layers of the three papers, listed through the same hooks as those of plugins."""

from functools import partial

from speechkit.component import Component
from speechkit.hookspecs import hookimpl

component = partial(Component, exports=frozenset({"torch", "torch.export", "onnx"}))


@hookimpl
def speechkit_activations() -> list[Component]:
    return [
        component(
            name="relu",
            factory="speechkit.builtin.factories:relu",
            summary="Rectified linear unit",
            formula="max(x, 0)",
        ),
        component(
            name="silu",
            factory="speechkit.builtin.factories:silu",
            summary="Sigmoid-weighted linear unit (Swish with beta 1)",
            formula="x * sigmoid(x)",
            paper="arXiv:1702.03118",
        ),
        component(
            name="gelu",
            factory="speechkit.builtin.factories:gelu",
            summary="Gaussian error linear unit; approx=tanh for the older form",
            formula="x * (1 + erf(x / sqrt(2))) / 2",
            paper="arXiv:1606.08415",
        ),
        component(
            name="identity",
            factory="speechkit.builtin.factories:identity",
            summary="No activation: the layers before and after it stay linear",
            formula="x",
        ),
        component(
            name="hardtanh",
            factory="speechkit.builtin.factories:hardtanh",
            summary="Linear between two bounds",
            formula="min(max(x, low), high)",
        ),
    ]


@hookimpl
def speechkit_norms() -> list[Component]:
    return [
        component(
            name="batch",
            factory="speechkit.nn:BatchNorm",
            summary="Batch normalisation over valid frames; per frame in evaluation",
            formula="(x - mean) / sqrt(var + eps) * weight + bias",
            paper="arXiv:1502.03167",
            foldable=True,
            exempt={"check_time_field_in_training": "its statistics are those of the batch"},
        ),
        component(
            name="none",
            factory="speechkit.nn:Bias",
            summary="No normalisation, only the bias a folded norm leaves",
            formula="x + bias",
            foldable=True,
        ),
    ]


@hookimpl
def speechkit_channel_layers() -> list[Component]:
    return [
        component(
            name="linear",
            factory="speechkit.nn:Pointwise",
            summary="Plain 1×1 convolution",
            formula="W x + b",
        )
    ]


@hookimpl
def speechkit_mixers() -> list[Component]:
    return [
        component(
            name="depthwise",
            factory="speechkit.nn:DepthwiseConv",
            summary="Depthwise convolution over time",
            formula="y[c, t] = sum_k w[c, k] x[c, t * stride + k * dilation - left]",
            time="lookahead",
        ),
        component(
            name="gru",
            factory="speechkit.builtin.factories:gru",
            summary="Gated recurrent unit over all frames so far, as wide as its input",
            formula="h_t = (1 - z_t) n_t + z_t h_(t-1)",
            paper="arXiv:1406.1078",
            time="causal",
            exports=frozenset({"torch", "onnx"}),
        ),
    ]


@hookimpl
def speechkit_residuals() -> list[Component]:
    return [
        component(
            name="add",
            factory="speechkit.builtin.factories:add",
            summary="Additive residual",
            formula="shortcut + body",
        )
    ]


@hookimpl
def speechkit_blocks() -> list[Component]:
    return [
        component(
            name="plain",
            factory="speechkit.nn:plain_block",
            summary="Jasper/QuartzNet block: body, projected shortcut, merge, activation",
            formula="activation(merge(shortcut(x), body(x)))",
            paper="arXiv:1910.10261",
            time="lookahead",
        ),
        component(
            name="skip",
            factory="speechkit.nn:skip_block",
            summary="The projected shortcut of a plain block alone, for a row without its body",
            formula="activation(shortcut(x))",
        ),
    ]


@hookimpl
def speechkit_stacks() -> list[Component]:
    return [
        component(
            name="serial",
            factory="speechkit.builtin.factories:serial",
            summary="Blocks one after the other",
            formula="b_n(... b_1(x))",
            time="lookahead",
        )
    ]


@hookimpl
def speechkit_stems() -> list[Component]:
    return [
        component(
            name="plain",
            factory="speechkit.builtin.factories:plain_stem",
            summary="The first block as the papers have it, without a residual",
            formula="activation(body(x))",
            paper="arXiv:1910.10261",
            time="lookahead",
        )
    ]


@hookimpl
def speechkit_nets() -> list[Component]:
    return [
        Component(
            name="quartznet",
            factory="speechkit.models:QuartzNet",
            summary="QuartzNet: speech recognition with CTC",
            formula="log_softmax(W encoder(stem(log_mel(x))) + b)",
            paper="arXiv:1910.10261",
        ),
        Component(
            name="matchboxnet",
            factory="speechkit.models:MatchboxNet",
            summary="MatchboxNet: spoken commands",
            formula="W mean_t(encoder(stem(mfcc(x)))) + b",
            paper="arXiv:2004.08531",
            example={"labels": ["yes", "no"]},
        ),
        Component(
            name="marblenet",
            factory="speechkit.models:MarbleNet",
            summary="MarbleNet: voice activity, for clips or for every 20 ms",
            formula="W encoder(stem(log_mel(x))) + b, or W mean_t(encoder(stem(mfcc(x)))) + b",
            paper="arXiv:2010.13886",
        ),
    ]


@hookimpl
def speechkit_heads() -> list[Component]:
    return [
        component(
            name="ctc",
            factory="speechkit.builtin.factories:ctc_head",
            task="ctc",
            summary="Log-probabilities of labels and blank (last) at every frame",
            formula="log_softmax(W x + b)",
        ),
        component(
            name="clip",
            factory="speechkit.builtin.factories:clip_head",
            task="clip",
            summary="Logits of one utterance: a pool over time, then a linear layer",
            formula="W pool(x) + b",
            time="utterance",
            parts={"pool": "pool"},
        ),
        component(
            name="frame",
            factory="speechkit.builtin.factories:frame_head",
            task="frame",
            summary="Logits at every frame",
            formula="W x + b",
        ),
    ]


@hookimpl
def speechkit_pools() -> list[Component]:
    return [
        component(
            name="average",
            factory="speechkit.builtin.factories:average",
            summary="Mean over the utterance's valid frames",
            formula="sum_t valid x / sum_t valid",
            time="utterance",
        ),
        component(
            name="running",
            factory="speechkit.builtin.factories:running",
            summary="Mean over the valid frames so far",
            formula="sum_{s<=t} valid x / sum_{s<=t} valid",
            time="causal",
        ),
    ]
