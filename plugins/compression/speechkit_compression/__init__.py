"""Transforms that make models smaller and faster, and layers and methods of small models, by name
once the package is installed: `block="ab_bnn"`.

Nothing here imports torch.
"""

from functools import partial
from typing import Any

from speechkit import Component, hookimpl

_AB_BNN = partial(Component, paper="arXiv:2403.03739")
_BINARY = partial(
    _AB_BNN,
    exports=frozenset({"torch", "torch.export", "onnx"}),
    exempt={"check_gradients": "the gradients of signs are those of smooth functions"},
)


@hookimpl
def speechkit_transforms() -> list[Component]:
    return [
        Component(
            name="heal",
            factory="speechkit_compression.healing:Heal",
            summary="Trains the model towards the scores of the one that it was made from",
            formula="min KL(teacher || model)",
            paper="arXiv:1503.02531",
            example={"teacher": "runs/base/best"},
            exempt={"check_transform_makes_a_model": "its example names the folder of a model"},
        ),
        Component(
            name="layer_drop",
            factory="speechkit_compression.layer_drop:LayerDrop",
            summary="Leaves out the blocks, or their bodies, that change a frame least",
            formula="the n blocks of largest mean cos(shortcut, shortcut + body), or cos(x, y)",
            paper="arXiv:2406.15786",
            example={"n": 1},
        ),
        Component(
            name="depth_prune",
            factory="speechkit_compression.depth_prune:DepthPrune",
            summary="Leaves out the blocks in a row that turn a frame least, and heals the net",
            formula="the n blocks in a row of smallest mean arccos(cos(x, y)) / π",
            paper="arXiv:2403.17887",
            example={"n": 1, "heal": 1},
        ),
        Component(
            name="cola",
            factory="speechkit_compression.cola:Cola",
            summary="Leaves out and repeats blocks along the path that is right most often",
            formula="argmax over paths of at most N - n blocks of the share of right predictions",
            paper="arXiv:2507.07996",
            example={"n": 1, "simulations": 8},
        ),
        Component(
            name="norm_statistics",
            factory="speechkit_compression.norm_statistics:NormStatistics",
            summary="Estimates the statistics of the batch norms anew from recordings",
            formula="mean over the batches of the batch's mean and variance",
            paper="arXiv:2105.07576",
        ),
        Component(
            name="n2n",
            factory="speechkit_compression.n2n:N2N",
            summary="The best of many smaller nets, which a policy tries; experimental",
            formula="max accuracy * C * (2 - C), C = 1 - size of the student / size of the model",
            paper="arXiv:1709.06030",
            example={"epochs": 2, "rollouts": 2, "steps": 2, "final_steps": 2},
            # without training this head has an accuracy above 0
            needs={"head": "frame", "labels": ("a", "b")},
        ),
        Component(
            name="ptq_smooth",
            factory="speechkit_compression.smoothing:PtqSmooth",
            summary="Moves large values of some channels into the 1×1 weights, for int8",
            formula="w_j / s_j, W_oj · s_j, s_j = a_j^α / (max_o |W_oj|)^(1 − α)",
            paper="arXiv:2211.10438, arXiv:2407.12397",
        ),
        Component(
            name="magnitude",
            factory="speechkit_compression.magnitude:Magnitude",
            summary="Sets the smallest weights to 0, one by one or several outputs together",
            formula="w * 1[|w| >= quantile(|w|, share)]",
            paper="arXiv:2407.20601",
            example={"share": 0.6, "block": 4},
        ),
        Component(
            name="ap",
            factory="speechkit_compression.ap:ActivateWhilePruning",
            summary="A round of pruning that also removes weights which keep units at 0",
            formula="start * mask; mask = 0 for (share - q) of least |w|, q of least |w - w_start|",
            paper="arXiv:2212.06145",
            example={"start": "runs/ap/0/start"},
            exempt={"check_transform_makes_a_model": "its example names the folder of a model"},
        ),
        Component(
            name="layer_merge",
            factory="speechkit_compression.layer_merge:LayerMerge",
            summary="Merges neighbouring layers so that the net takes a share of its time",
            formula="max sum of I over segments, sum of T <= budget * T0",
            paper="arXiv:2406.12837",
            example={"budget": 0.8, "latency": "macs", "trial": 1, "heal": 2},
        ),
        Component(
            name="relu_reduce",
            factory="speechkit_compression.relu_reduce:ReluReduce",
            summary="Keeps a share of the ReLUs, those of the most critical stages",
            formula="(A(only stage k) - A(none)) / n_k^w",
            paper="arXiv:2103.01396",
            example={"budget": 0.5, "heal": 1},
        ),
        Component(
            name="swap_activation",
            factory="speechkit_compression.swap_activation:SwapActivation",
            summary="Puts another activation in the place of all, one after another, and heals",
            formula="min KL(original || net with k swapped), k = 1 ... n",
            paper="arXiv:2402.01169",
            parts={"to": "activation"},
            example={"to": "silu", "steps": 1},
        ),
    ]


@hookimpl
def speechkit_commands(cli: Any) -> None:
    from speechkit_compression.command import compress

    cli.command("compress")(compress)


@hookimpl
def speechkit_probes() -> list[Component]:
    return [
        Component(
            name="outlier_channels",
            factory="speechkit_compression.outliers:outlier_channels",
            summary="Channels whose values are far above the others, of each 1×1 layer's input",
            formula="max_j a_j / median_j a_j, a_j = max |x_j|",
            paper="arXiv:2407.12397",
        ),
        Component(
            name="dead_neurons",
            factory="speechkit_compression.dead_neurons:dead_neurons",
            summary="The share of units that are 0: in the mean over frames, and in all of them",
            formula="dynamic = mean 1[y = 0]; static = mean_c 1[y_c = 0 in all frames]",
            paper="arXiv:2212.06145",
        ),
    ]


@hookimpl
def speechkit_methods() -> list[Component]:
    pruned = "its model has no weights of 0 to keep"
    return [
        Component(
            name="keep_zeros",
            factory="speechkit_compression.keep_zeros:KeepZeros",
            summary="Trains a pruned model, whose weights of 0 stay 0",
            formula="W = mask * W, mask = 1[W != 0] at the start",
            paper="arXiv:2407.20601",
            exempt={"check_method_resumes": pruned, "check_method_in_two_processes": pruned},
        ),
        _AB_BNN(
            name="agc",
            factory="speechkit_compression.agc:AdaptiveClipping",
            summary="Clips each row's gradient in proportion to the norm of its weights",
            formula="g *= min(1, clip * max(||w||, eps) / ||g||)",
            paper="arXiv:2102.06171",
            example={"clip": 0.02},
        ),
    ]


@hookimpl
def speechkit_activations() -> list[Component]:
    return [
        _AB_BNN(
            name="qprelu",
            factory="speechkit_compression.qprelu:QPReLU",
            summary="Leaky ReLU whose learned slopes are powers of two (experimental)",
            exports=frozenset({"torch", "torch.export", "onnx"}),
            example={"log2": -2.0},
            exempt={"check_gradients": "the gradient ignores the rounding"},
        ),
    ]


@hookimpl
def speechkit_channel_layers() -> list[Component]:
    return [
        _BINARY(
            name="binary",
            factory="speechkit_compression.binary:BinaryPointwise",
            summary="1×1 layer whose inputs and weights are 1 or -1",
            foldable=True,
            formula="y = alpha * gain * mean|W'| * sign(W') sign(beta * x + b); W' standardised W",
            example={"alpha": 0.25},
        ),
    ]


@hookimpl
def speechkit_blocks() -> list[Component]:
    return [
        _BINARY(
            name="ab_bnn",
            factory="speechkit_compression.ab_bnn:ab_bnn",
            time="lookahead",
            summary="Residual units of binary layers over time and channels, without norms",
            formula="f(shortcut(x) + alpha * L(sign(beta * x + b0)) + b1) + b2",
            example={"alpha": 0.5},
        ),
    ]
