"""Residual connections for speechkit: `residual="laurel"`, `block="preact"`, `stack="hires"`.

Nothing here imports torch; the designs are in the modules beside this one.
"""

from functools import partial

from speechkit import Component, Moved, hookimpl

_COMPONENT = partial(Component, exports=frozenset({"torch", "torch.export", "onnx"}))
_BLOCK = partial(_COMPONENT, time="lookahead")
_OF_THE_BATCH = {"check_time_field_in_training": "it has batch norms of its own"}
_STACK = partial(_COMPONENT, time="lookahead")


@hookimpl
def speechkit_residuals() -> list[Component]:
    return [
        _COMPONENT(
            name="laurel",
            factory="speechkit_residuals.laurel:laurel",
            summary="Learned weights of both branches and a low-rank map of the shortcut",
            formula="alpha * body + beta * (shortcut + B A shortcut)",
            paper="arXiv:2411.07501",
            example={"rank": 2},
        )
    ]


@hookimpl
def speechkit_blocks() -> list[Component | Moved]:
    return [
        _BLOCK(
            name="identity",
            factory="speechkit_residuals.identity:identity",
            summary="ResNet block with shortcut option A, B or C",
            formula="activation(shortcut(x) + body(x))",
            paper="arXiv:1512.03385",
            example={"shortcut": "A"},
        ),
        _BLOCK(
            name="preact",
            factory="speechkit_residuals.preact:preact",
            summary="Norm and activation before each convolution; variants from the paper",
            formula="x + conv(act(norm(conv(act(norm(x))))))",
            paper="arXiv:1603.05027",
        ),
        _BLOCK(
            name="wide",
            factory="speechkit_residuals.preact:wide",
            summary="Pre-activation block with more channels inside and dropout between",
            formula="x + conv(drop(act(norm(conv(act(norm(x)))))))",
            paper="arXiv:1605.07146",
            example={"factor": 2},
        ),
        _BLOCK(
            name="parallel",
            factory="speechkit_residuals.ode:parallel",
            summary="Body and feed-forward branch side by side",
            formula="x + body(norm(x)) + feed_forward(norm(x))",
            paper="arXiv:2212.06011",
            example={"expand": 2},
        ),
        _BLOCK(
            name="ode",
            factory="speechkit_residuals.ode:ode",
            summary="Steps of an ODE solver (euler, midpoint, heun, rk4) along a shared body",
            formula="x + h / 6 * (k_1 + 2 k_2 + 2 k_3 + k_4), k_i = f(x + a_i h k_{i-1})",
            paper="arXiv:2212.06011",
            example={"solver": "heun", "steps": 1},
        ),
        _BLOCK(
            name="res2",
            factory="speechkit_residuals.res2:res2",
            summary="Groups of channels in a cascade: several time scales in one block",
            formula="y_i = K_i(x_i + y_{i-1}), one group as it is",
            paper="arXiv:1904.01169",
            example={"scale": 2},
        ),
        _BLOCK(
            name="reversible",
            factory="speechkit_residuals.coupled:reversible",
            summary="Two couplings on halves of the channels, trained without stored activations",
            formula="y_1 = x_1 + F(x_2), y_2 = x_2 + G(y_1)",
            paper="arXiv:2104.09648",
        ),
        _BLOCK(
            name="irevnet",
            factory="speechkit_residuals.coupled:irevnet",
            summary="i-RevNet block: one coupling with a bottleneck",
            formula="(x_1, x_2) -> (x_2, x_1 + F(x_2))",
            paper="arXiv:1802.07088",
        ),
        _BLOCK(
            name="mbconv",
            factory="speechkit_residuals.coupled:mbconv",
            summary="Inverted bottleneck with a residual",
            formula="shortcut(x) + norm(W act(norm(depthwise(act(norm(V x))))))",
            paper="arXiv:2104.09648",
            example={"expand": 2},
        ),
        _BLOCK(
            name="dense_rnn",
            factory="speechkit_residuals.dense_rnn:dense_rnn",
            summary="Densely connected LSTM or GRU layers in place of the body",
            formula="h^l = rnn(x, h^1, ..., h^{l-1})",
            paper="arXiv:1802.00889",
            time="causal",
            # it packs rows by length, which torch cannot trace; ONNX has an operator
            exports=frozenset({"torch", "onnx"}),
            example={"hidden": 3},
        ),
        _BLOCK(
            name="mod",
            factory="speechkit_residuals.mod:mod",
            summary="Plain block, then a feed-forward layer for the frames that a router selects",
            formula="x + p * feed_forward(norm(x)) where p > threshold, else x",
            paper="arXiv:2410.13859",
            example={"expand": 2, "threshold": 0.4},
            exempt={"check_time_field_in_training": "training selects among all frames"},
        ),
        Moved(name="rglru", to="mixers/rglru"),
    ]


@hookimpl
def speechkit_stacks() -> list[Component]:
    return [
        _STACK(
            name="laurel",
            factory="speechkit_residuals.laurel:laurel_stack",
            summary="Each block adds a low-rank map of the activations before it",
            formula="block_i(x_i) + B_i A_i sum_{j<k} gamma_ij x_{i-j}",
            paper="arXiv:2411.07501",
            example={"k": 2, "rank": 2},
        ),
        _STACK(
            name="hires",
            factory="speechkit_residuals.hires:hires",
            summary="Each block reads the outputs of all earlier blocks through small projections",
            formula="block_l(h_{l-1}) + sum_{k<l-1} norm(V_kl U_kl h_k)",
            paper="arXiv:2502.16003",
            exempt=_OF_THE_BATCH,
        ),
        _STACK(
            name="reversible",
            factory="speechkit_residuals.coupled:reversible_stack",
            summary="Adjacent reversible blocks as one layer that stores its last output only",
            formula="b_n(... b_1(x)), backwards b_1^-1(... b_n^-1(y))",
            paper="arXiv:1707.04585",
            needs={"block": "reversible"},
        ),
        _STACK(
            name="revcol",
            factory="speechkit_residuals.revcol:revcol",
            summary="Reversible columns of blocks; training stores the last column only",
            formula="c_j^i = alpha_j c_j^{i-1} + block(c_{j-1}^i + U c_{j+1}^{i-1})",
            paper="arXiv:2212.11696",
        ),
        _STACK(
            name="aila_linear",
            factory="speechkit_residuals.aila:aila_linear",
            summary="Each block reads linear maps of all outputs before it",
            formula="x_l = h_{l-1} + sum_{j<l-1} P_lj h_j",
            paper="arXiv:2503.22742",
        ),
        _STACK(
            name="aila_attn",
            factory="speechkit_residuals.aila:aila_attn",
            summary="Each block attends to all outputs before it, frame by frame",
            formula="x_l = h_{l-1} + W_o sum_j softmax_j(q . k_j / sqrt(d)) v_j",
            paper="arXiv:2503.22742",
        ),
        _STACK(
            name="parallel_shallow",
            factory="speechkit_residuals.shallow:parallel_shallow",
            summary="Blocks of one width in parallel instead of in series",
            formula="x + sum_b (block_b(x) - x)",
            paper="arXiv:2309.08414",
            needs={"block": "preact"},
            example={"first": True},
        ),
        _STACK(
            name="layer_mix",
            factory="speechkit_residuals.shallow:layer_mix",
            summary="A learned mix of all blocks' outputs",
            formula="sum_j w_j h_j",
            paper="arXiv:2405.08570",
        ),
        _STACK(
            name="shared_router",
            factory="speechkit_residuals.mod:shared_router",
            summary="Blocks mod in series, with one router for all of one width",
            formula="b_n(... b_1(x))",
            paper="arXiv:2410.13859",
            needs={"block": "mod"},
            exempt={
                "check_time_field_in_training": "training selects among all frames",
                "check_half_precision": "rounding may turn the choice of a frame in each block",
            },
        ),
        _STACK(
            name="dense_easter",
            factory="speechkit_residuals.easter:dense_easter",
            summary="Easter2.0: a chain of projections joins the shortcuts; squeeze and excitation",
            formula="act(old' + SE(body(data))), old' = norm(P old) + shortcut(data)",
            paper="arXiv:2205.14879",
            example={"reduction": 2},
            exempt=_OF_THE_BATCH,
        ),
    ]


@hookimpl
def speechkit_stems() -> list[Component]:
    return [
        _COMPONENT(
            name="space_to_depth",
            factory="speechkit_residuals.space_to_depth:space_to_depth",
            summary="Concatenates the frames of a stride along channels, without loss",
            formula="y[s * C + c, t] = x[c, t * stride + s]",
            paper="arXiv:1802.07088",
            time="lookahead",
        )
    ]


@hookimpl
def speechkit_losses() -> list[Component]:
    return [
        Component(
            name="focal_ctc",
            factory="speechkit_residuals.focal_ctc:FocalCTC",
            summary="CTC with a smaller weight for utterances of high probability",
            formula="alpha * (1 - p)^gamma * -ln(p), p = P(targets | scores)",
            paper="arXiv:2205.14879",
        )
    ]


@hookimpl
def speechkit_augmentations() -> list[Component]:
    return [
        Component(
            name="concat",
            factory="speechkit_residuals.concat:Concat",
            summary="Joins an utterance with another one and their texts",
            formula="x_i then x_j, text_i + ' ' + text_j, with probability; else x_i",
            paper="arXiv:2205.14879",
            time="utterance",
            example={"probability": 0.3},
        ),
        Component(
            name="taco",
            factory="speechkit_residuals.taco:Taco",
            summary="Tiling and corruption: replaces tiles of frames by noise or by one value",
            formula="each tile of U{min_frames, max_frames} frames replaced with probability share",
            paper="arXiv:2205.14879",
            example={"max_frames": 20},
        ),
    ]


@hookimpl
def speechkit_methods() -> list[Component]:
    return [
        Component(
            name="mod_router",
            factory="speechkit_residuals.mod:RouterLoss",
            summary="Trains the routers of block mod towards their own decisions",
            formula="weight * cross_entropy(router, frames that went through)",
            paper="arXiv:2410.13859",
            needs={"block": "mod"},
        )
    ]


@hookimpl
def speechkit_probes() -> list[Component]:
    return [
        Component(
            name="arank",
            factory="speechkit_residuals.mod:arank",
            summary="The effective rank of each block's update",
            formula="exp(entropy of the singular values of h_l - h_{l-1})",
            paper="arXiv:2410.13859",
        )
    ]


@hookimpl
def speechkit_transforms() -> list[Component]:
    return [
        Component(
            name="mod_layers",
            factory="speechkit_residuals.mod_layers:ModLayers",
            summary="Makes blocks mod of those whose updates have the lowest effective rank",
            formula="y = block(x) + p * feed_forward(norm(block(x))), feed_forward = 0 at first",
            paper="arXiv:2410.13859",
            example={"layers": 1, "keep_first": 0, "keep_last": 0},
        )
    ]
