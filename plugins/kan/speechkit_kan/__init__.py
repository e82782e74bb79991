"""Kolmogorov-Arnold layers for speechkit, by name once it is installed: `channel="bspline"`.

`update_grids`, `prune`, `SL2A` and the rest are in the modules beside this one; nothing here
imports torch.
"""

from functools import partial
from typing import Any

from speechkit import Component, hookimpl

_COMPONENT = partial(Component, exports=frozenset({"torch", "torch.export", "onnx"}))


@hookimpl
def speechkit_channel_layers() -> list[Component]:
    return [
        _COMPONENT(
            name="bspline",
            factory="speechkit_kan.bspline:BSplineKAN",
            summary="A spline on a grid and a SiLU on each edge: the original KAN layer",
            formula="sum_i base_oi silu(x_i) + scale_oi sum_g c_oig B_g(tanh(x_i))",
            paper="arXiv:2404.19756",
        ),
        _COMPONENT(
            name="cheby",
            factory="speechkit_kan.cheby:ChebyKAN",
            summary="A Chebyshev polynomial of tanh x on each edge, then layer norm",
            formula="LN(sum_i sum_n c_oin T_n(tanh(x_i)))",
            paper="arXiv:2409.10836",
        ),
        _COMPONENT(
            name="relu_kan",
            factory="speechkit_kan.relu_kan:ReluKAN",
            summary="Bumps with learned ends on each edge, products of two ReLUs",
            formula="sum_i sum_j w_oij (relu(x_i - low_ij) relu(high_ij - x_i) 4g^2/(k+1)^2)^2",
            paper="arXiv:2406.02075",
        ),
        _COMPONENT(
            name="af_kan",
            factory="speechkit_kan.af_kan:AFKAN",
            summary="Functions of an activation, reduced to one number per channel, then linear",
            formula="W act(LN(reduce_j func(act(x - low_j), act(high_j - x))))",
            paper="arXiv:2503.06112",
        ),
    ]


@hookimpl
def speechkit_activations() -> list[Component]:
    return [
        _COMPONENT(
            name="cheby",
            factory="speechkit_kan.cheby:Chebyshev",
            summary="A Chebyshev polynomial of tanh x for each channel, which starts as tanh",
            formula="sum_n a_cn T_n(tanh(x))",
            paper="arXiv:2409.10836",
        )
    ]


@hookimpl
def speechkit_mixers() -> list[Component]:
    return [
        _COMPONENT(
            name="cheb_conv",
            factory="speechkit_kan.conv:ChebConv",
            summary="Depthwise convolution with a linear and a Chebyshev part in each tap",
            formula="sum_k w_ck x[c,t+k] + a_ck sum_n b_ckn T_n(tanh(x[c,t+k]))",
            paper="arXiv:2410.05500",
            time="lookahead",
        )
    ]


@hookimpl
def speechkit_blocks() -> list[Component]:
    return [
        _COMPONENT(
            name="rkan",
            factory="speechkit_kan.rkan:rkan",
            summary="The plain block and a parallel narrow convolution of learned functions",
            formula="block(x) + BN(expand(kan_conv(reduce(x))))",
            paper="arXiv:2410.05500",
            time="lookahead",
            exempt={"check_time_field_in_training": "it has a batch norm of its own"},
        )
    ]


@hookimpl
def speechkit_heads() -> list[Component]:
    return [
        _COMPONENT(
            name="kan_dense",
            task="clip",
            factory="speechkit_kan.heads:kan_dense",
            summary="Logits of one utterance: a pool, then linear, KAN, linear",
            formula="W2 kan(W1 pool(x) + b1) + b2",
            paper="arXiv:2505.20176",
            time="utterance",
            parts={"pool": "pool", "kan": "channel"},
        ),
        _COMPONENT(
            name="kan_frame",
            task="frame",
            factory="speechkit_kan.heads:kan_frame",
            summary="Logits at every frame: linear, KAN, linear",
            formula="W2 kan(W1 x + b1) + b2",
            paper="arXiv:2505.20176",
            parts={"kan": "channel"},
        ),
        _COMPONENT(
            name="kan_ctc",
            task="ctc",
            factory="speechkit_kan.heads:kan_ctc",
            summary="Log-probabilities of labels and blank at every frame: linear, KAN, linear",
            formula="log_softmax(W2 kan(W1 x + b1) + b2)",
            paper="arXiv:2505.20176",
            parts={"kan": "channel"},
        ),
    ]


@hookimpl
def speechkit_methods() -> list[Component]:
    return [
        Component(
            name="kan_grids",
            factory="speechkit_kan.calibration:KanGrids",
            summary="Moves the grids of bspline layers to the data before the first step",
            paper="arXiv:2404.19756",
            needs={"channel": "bspline"},
        )
    ]


@hookimpl
def speechkit_transforms() -> list[Component]:
    return [
        Component(
            name="kan_prune",
            factory="speechkit_kan.calibration:prune",
            summary="Keeps the edges of each layer that vary most over recordings",
            paper="arXiv:2404.19756",
            needs={"channel": "bspline"},
        )
    ]


@hookimpl
def speechkit_commands(cli: Any) -> None:
    from speechkit_kan.command import kan_plot

    cli.command("kan-plot")(kan_plot)
