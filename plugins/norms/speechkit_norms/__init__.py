"""Normalisation layers for speechkit, by name once the package is installed: `norm="rms"`.

`RepBN`, `fold_affine` and the rest are in the modules beside this one; nothing here imports torch.
"""

from functools import partial

from speechkit import Component, hookimpl

_COMPONENT = partial(Component, exports=frozenset({"torch", "torch.export", "onnx"}))
_OF_THE_BATCH = {"check_time_field_in_training": "its statistics are those of the batch"}


@hookimpl
def speechkit_norms() -> list[Component]:
    return [
        _COMPONENT(
            name="rms",
            factory="speechkit_norms.frame:RMSNorm",
            summary="Root mean square of each frame's channels, or of the first share p of them",
            formula="x / (sqrt(mean_c x^2) + eps) * weight",
            paper="arXiv:1910.07467",
            example={"p": 0.5, "bias": True},
        ),
        _COMPONENT(
            name="layer",
            factory="speechkit_norms.frame:LayerNorm",
            summary="Mean and variance of each frame's channels",
            formula="(x - mean_c) / sqrt(var_c + eps) * weight + bias",
            paper="arXiv:1607.06450",
        ),
        _COMPONENT(
            name="layer_ct",
            factory="speechkit_norms.utterance:LayerNormCT",
            summary="Mean and variance over channels and valid frames",
            formula="(x - mean_ct) / sqrt(var_ct + eps) * weight + bias",
            paper="arXiv:1607.06450",
            time="utterance",
        ),
        _COMPONENT(
            name="layer_cum",
            factory="speechkit_norms.causal:CumulativeLayerNorm",
            summary="Mean and variance over channels and all valid frames up to this one",
            formula="(x_t - mean_{c,s<=t}) / sqrt(var_{c,s<=t} + eps) * weight + bias",
            paper="arXiv:1607.06450",
            time="causal",
        ),
        _COMPONENT(
            name="ms_layer",
            factory="speechkit_norms.memory:MSLayerNorm",
            summary="Layer norm whose backward pass shares one stored tensor with the next layer",
            formula="(x - mean_c) / sqrt(var_c + eps)",
            paper="arXiv:2406.16282",
        ),
        _COMPONENT(
            name="ms_rms",
            factory="speechkit_norms.memory:MSRMSNorm",
            summary="RMS norm whose backward pass shares one stored tensor with the next layer",
            formula="x / sqrt(mean_c x^2 + eps)",
            paper="arXiv:2406.16282",
        ),
        _COMPONENT(
            name="repbn",
            factory="speechkit_norms.batch:RepBN",
            summary="Batch norm and a learned share of its input",
            formula="batch(x) + alpha * x",
            paper="arXiv:2405.11582",
            foldable=True,
            exempt=_OF_THE_BATCH,
        ),
        _COMPONENT(
            name="prepbn",
            factory="speechkit_norms.batch:PRepBN",
            summary="Training moves from another norm to repbn; evaluation uses repbn only",
            formula="lambda * first(x) + (1 - lambda) * repbn(x), lambda from r0 to 0",
            paper="arXiv:2405.11582",
            foldable=True,
            parts={"first": "norm"},
            example={"warm": 1, "steps": 4},
            exempt=_OF_THE_BATCH,
        ),
        _COMPONENT(
            name="group",
            factory="speechkit_norms.frame:GroupNorm",
            summary="Mean and variance of groups of each frame's channels",
            formula="(x - mean_g) / sqrt(var_g + eps) * weight + bias",
            paper="arXiv:1803.08494",
            example={"groups": 2},
        ),
        _COMPONENT(
            name="instance",
            factory="speechkit_norms.utterance:InstanceNorm",
            summary="Mean and variance of each channel's valid frames",
            formula="(x - mean_t) / sqrt(var_t + eps) * weight + bias",
            paper="arXiv:1607.08022",
            time="utterance",
        ),
        _COMPONENT(
            name="running",
            factory="speechkit_norms.causal:RunningNorm",
            summary="Running mean and variance of each channel: instance norm for streams",
            formula="(x_t - mean_{s<=t}) / sqrt(var_{s<=t} + 1e-5) * weight + bias, forgetting",
            paper="arXiv:1607.08022",
            time="causal",
        ),
    ]


@hookimpl
def speechkit_activations() -> list[Component]:
    return [
        _COMPONENT(
            name="learnable_lrelu",
            factory="speechkit_norms.free:LearnableLeakyReLU",
            summary="Leaky ReLU with a learned slope, for nets without norms",
            formula="max(x, 0) + slope * min(x, 0)",
            paper="arXiv:2410.09637",
            example={"init": 0.1, "mode": "channel"},
        )
    ]


@hookimpl
def speechkit_mixers() -> list[Component]:
    return [
        Component(
            name="ln_lstm",
            factory="speechkit_norms.lstm:ln_lstm",
            summary="LSTM with layer norm in its sums and its cell",
            formula="i, f, g, o = LN(W x) + LN(U h) + b; h = sigmoid(o) * tanh(LN(c))",
            paper="arXiv:1607.06450",
            time="causal",
            exempt={"check_half_precision": "its recurrence amplifies how bfloat16 rounds"},
        )
    ]


@hookimpl
def speechkit_stems() -> list[Component]:
    return [
        _COMPONENT(
            name="dual_patch",
            factory="speechkit_norms.patch:dual_patch",
            summary="Any stem between two norms",
            formula="post(stem(pre(x)))",
            paper="arXiv:2302.01327",
            time="lookahead",
            parts={"stem": "stem", "pre": "norm", "post": "norm"},
        )
    ]
