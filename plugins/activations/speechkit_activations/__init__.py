"""A plugin of speechkit: activation functions from the literature, and their methods and tools."""

from itertools import chain
from typing import Any

from speechkit import Component, hookimpl
from speechkit_activations import catalog


@hookimpl
def speechkit_activations() -> list[Component]:
    return list(chain(catalog.smooth(), catalog.gated(), catalog.rectifiers(), catalog.survey()))


@hookimpl
def speechkit_channel_layers() -> list[Component]:
    return [
        Component(
            name="glu_ffn",
            factory="speechkit_activations.gated:glu_ffn",
            summary="Gated feed-forward layer at every frame",
            formula="W2 (g(W x) * V x)",
            paper="arXiv:2002.05202",
            exports=catalog.EVERYWHERE,
        ),
        Component(
            name="relu_linear",
            factory="speechkit_activations.sparse:relu_linear",
            summary="Linear layer with a ReLU before it, so that its input has zeros",
            formula="W max(x, 0)",
            paper="arXiv:2310.04564",
            exports=catalog.EVERYWHERE,
        ),
        Component(
            name="analog_linear",
            factory="speechkit_activations.analog:AnalogLinear",
            summary="Linear layer whose weights have few levels and noise, as in analog hardware",
            formula="noise(quantize(clamp(W))) x",
            paper="arXiv:2402.02593",
            example={"noisy": "training"},
            exempt=catalog.ANALOG,
        ),
    ]


@hookimpl
def speechkit_mixers() -> list[Component]:
    return [
        Component(
            name="analog_depthwise",
            factory="speechkit_activations.analog:AnalogDepthwise",
            summary="Depthwise convolution whose weights have few levels and noise",
            formula="sum_k noise(quantize(clamp(w[c, k]))) x[c, t * stride + k * dilation - left]",
            paper="arXiv:2402.02593",
            time="lookahead",
            example={"noisy": "training"},
            exempt=catalog.ANALOG,
        )
    ]


@hookimpl
def speechkit_inits() -> list[Component]:
    return [
        Component(
            name="he",
            factory="speechkit_activations.inits:he",
            summary="Weights that preserve the signal's variance through ReLU or prelu",
            formula="w of variance 2 / ((1 + slope^2) fan)",
            paper="arXiv:1502.01852",
        )
    ]


@hookimpl
def speechkit_methods() -> list[Component]:
    return [
        Component(
            name="transport",
            factory="speechkit_activations.methods:Transport",
            summary="Adds the optimal-transport term of velu to the loss",
            formula="lambda_ot (mean^2 + (std - 1)^2)",
            paper="arXiv:2504.15051",
            needs={"activation": "velu:ot=loss"},
        ),
        Component(
            name="relu_budget",
            factory="speechkit_activations.methods:ReluBudget",
            summary="Bounds the share of channels of relu_or_poly that keep ReLU",
            formula="weight * max(share - budget, 0)",
            paper="arXiv:2308.10134",
            needs={"activation": "relu_or_poly"},
        ),
        Component(
            name="prosparse",
            factory="speechkit_activations.methods:ProSparse",
            summary="Adds the L1 norm of fatrelu's output, with a weight that rises in stages",
            formula="lambda(t) * sum_layers mean_t(sum_c |y|)",
            paper="arXiv:2402.13516",
            example={"factors": "0 0.001 0.01", "ends": "100 200 400"},
            needs={"activation": "fatrelu:relu_calls=400"},
        ),
    ]


@hookimpl
def speechkit_probes() -> list[Component]:
    return [
        Component(
            name="sparsity",
            factory="speechkit_activations.sparsity:sparsity",
            summary="Zeros in the output of activations, and the products they save in 1×1 layers",
            formula="mean(y == 0)",
            paper="arXiv:2310.04564",
        ),
        Component(
            name="activation_spectrum",
            factory="speechkit_activations.spectrum:activation_spectrum",
            summary="The constant and the harmonics that each activation makes of a tone",
            formula="2 |FFT(act(A cos 2 pi f t))[k f]| / A",
            paper="arXiv:2407.16556",
        ),
        Component(
            name="relus",
            factory="speechkit_activations.relus:relus",
            summary="ReLUs of every activation, for each frame of scores and each second",
            formula="channels * frames of the layer / frames of scores",
            paper="arXiv:2103.01396",
        ),
    ]


@hookimpl
def speechkit_transforms() -> list[Component]:
    return [
        Component(
            name="relufy",
            factory="speechkit_activations.relufy:relufy",
            summary="Replaces a trained model's activation by ReLU, for more zeros",
            formula="max(x - b, 0), b from the requested share of zeros",
            paper="arXiv:2310.04564",
            parts={"activation": "activation"},
            example={"zeros": 0.7, "stage": 2},
        ),
        Component(
            name="dapa",
            factory="speechkit_activations.dapa:DaPa",
            summary="Keeps a share of a trained net's ReLUs; polynomials replace the others",
            formula="c0 + c1 x + c2 x^2, the least-squares fit to ReLU under N(mean, std^2)",
            paper="arXiv:2308.10134",
            example={"budget": 0.5},
        ),
    ]


@hookimpl
def speechkit_commands(cli: Any) -> None:
    from speechkit_activations.command import search_activations

    cli.command("search-activations")(search_activations)
