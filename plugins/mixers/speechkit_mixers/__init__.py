"""Layers that mix over time for speechkit: `mixer="retention"`, `block="trec"`.

Nothing here imports torch; the designs are in the modules beside this one.
"""

from functools import partial

from speechkit import Component, hookimpl

_COMPONENT = partial(Component, exports=frozenset({"torch", "torch.export", "onnx"}))


@hookimpl
def speechkit_mixers() -> list[Component]:
    return [
        _COMPONENT(
            name="attention",
            factory="speechkit_mixers.attention:attention",
            summary="Attention over a window, with weights from a softmax or from a ReLU",
            formula="sum_j f(q_t . k_j / sqrt(d)) v_j for each head",
            paper="arXiv:2309.08586, arXiv:2104.07012, arXiv:2302.06461",
            time="lookahead",
            example={"weight": "reluformer", "window": 7},
        ),
        _COMPONENT(
            name="elstm",
            factory="speechkit_mixers.elstm:elstm",
            summary="LSTM whose units read their own past only; may learn online",
            formula="c_t = f c_{t-1} + (1 - f) tanh(W_z x + w_z c_{t-1} + b_z), "
            "f = sigmoid(W_f x + w_f c_{t-1} + b_f)",
            paper="arXiv:2305.19044",
            time="causal",
            # a loop over frames, which a trace unrolls
            exports=frozenset({"torch"}),
        ),
        _COMPONENT(
            name="hyperzzw",
            factory="speechkit_mixers.hyperzzw:hyperzzw",
            summary="Depthwise convolution with a kernel that a small net makes from its input",
            formula="w(z) * x, w(z) = MAGNet(positions) * V GELU(F R z)",
            paper="arXiv:2401.17948",
            time="utterance",
            example={"hidden": 4},
            exempt={"check_gradients": "the paper's norm holds back a part of the gradient"},
        ),
        _COMPONENT(
            name="hyperzzw_running",
            factory="speechkit_mixers.hyperzzw:hyperzzw_running",
            summary="Depthwise convolution with a kernel for each frame, from the frames so far",
            formula="w(z_t) * x, w(z) = MAGNet(positions) * V GELU(F R z)",
            paper="arXiv:2401.17948",
            time="lookahead",
            example={"hidden": 4},
            exempt={"check_gradients": "the paper's norm holds back a part of the gradient"},
        ),
        _COMPONENT(
            name="lambda",
            factory="speechkit_mixers.lambdas:lambda_layer",
            summary="Lambda layer: queries times a matrix of the frames so far and of near ones",
            formula="(sum_m k_m v_m^T + sum_j E_j v_{n+j}^T)^T q_n, k = softmax over m <= n",
            paper="arXiv:2102.08602",
            time="lookahead",
            exempt={"check_time_field_in_training": "it has a batch norm of its own"},
            example={"heads": 2, "keys": 4},
        ),
        _COMPONENT(
            name="lru",
            factory="speechkit_mixers.lru:lru",
            summary="Linear recurrent unit: a complex diagonal recurrence, then a gated layer",
            formula="x + a * sigmoid(b), (a, b) = W gelu(z) + c, z = re(C h) + D x, "
            "h = lambda h + gamma B x",
            paper="arXiv:2303.06349, arXiv:2307.11888",
            time="causal",
            example={"states": 6},
        ),
        _COMPONENT(
            name="multires",
            factory="speechkit_mixers.multires:MultiRes",
            summary="Causal convolution whose kernel is a tree of two short filters per channel",
            formula="w_r x + w_0 a_J + sum_j w_j (high * a_{j-1}), a_j = low * a_{j-1}",
            paper="arXiv:2305.01638",
            time="causal",
            foldable=True,
            example={"memory": 5},
        ),
        _COMPONENT(
            name="random_graph_rnn",
            factory="speechkit_mixers.random_graph_rnn:random_graph_rnn",
            summary="Recurrent layers whose units are connected as the nodes of a random graph",
            formula="h_L = rnn_L(h_{L-1}) + sum_{K < L-1} rnn_KL(h_K), y = W h of the last nodes",
            paper="https://github.com/harshildarji/thesis",
            time="causal",
            # packing rows by length cannot be traced; ONNX has operators of its own
            exports=frozenset({"torch", "onnx"}),
            example={"nodes": 8},
        ),
        _COMPONENT(
            name="retention",
            factory="speechkit_mixers.retention:retention",
            summary="Multi-head retention: attention that fades with distance, in constant memory",
            formula="S_n = gamma e^{-i theta} S_{n-1} + v_n k_n^T, "
            "y_n = W (swish(g_n) * norm(Re(S_n conj(q_n))))",
            paper="arXiv:2307.08621",
            time="causal",
            example={"heads": 2},
        ),
        _COMPONENT(
            name="sic",
            factory="speechkit_mixers.sic:SingleIntraChannel",
            summary="Depthwise convolution with a shortcut of its own",
            formula="x + w * x",
            paper="arXiv:1608.04337",
            time="lookahead",
            foldable=True,
        ),
        _COMPONENT(
            name="sla",
            factory="speechkit_mixers.sla:sla",
            summary="Simplified linear attention over the frames so far, and a short convolution",
            formula="W (sum_m (q_n . k_m) v_m / sum_m q_n . k_m + w * v), m <= n, q and k >= 0",
            paper="arXiv:2405.11582",
            time="lookahead",
            example={"heads": 2},
        ),
        _COMPONENT(
            name="trellis",
            factory="speechkit_mixers.trellis:Trellis",
            summary="Trellis network: the weights of an LSTM cell on levels instead of frames",
            formula="c' = s(f) c[t-d] + s(i) tanh(g), h' = s(o) tanh(c'), on each level",
            paper="arXiv:1810.06682",
            time="causal",
            example={"levels": 4, "widest": 2},
        ),
    ]


@hookimpl
def speechkit_channel_layers() -> list[Component]:
    return [
        _COMPONENT(
            name="kv_memory",
            factory="speechkit_mixers.kv_memory:kv_memory",
            summary="Values of a memory, weighed by a softmax or a ReLU of their keys",
            formula="layer_norm(V f(K x)), f = softmax or relu",
            paper="arXiv:2302.06461",
            example={"slots": 10},
        ),
        _COMPONENT(
            name="moe_relu",
            factory="speechkit_mixers.moe_relu:MoEReLU",
            summary="Mixture of SwiGLU experts with a ReLU as router: a frame uses any number",
            formula="sum_e relu(R n + b)_e W_e (silu(U_e n) * V_e n), n = x / rms(x)",
            paper="arXiv:2412.14711",
            example={"experts": 4, "hidden": 3},
        ),
        _COMPONENT(
            name="topo",
            factory="speechkit_mixers.topo:topo",
            summary="1x1 layer in which each output reads a window of a grid of the channels",
            formula="y[a] = sum_n w[a, n] x[s(a) + n], a and n places in the grid",
            paper="arXiv:1608.04337",
        ),
    ]


@hookimpl
def speechkit_blocks() -> list[Component]:
    return [
        Component(
            name="block_recurrent",
            factory="speechkit_mixers.block_recurrent:block_recurrent",
            summary="Attention to a window of frames, and to states that read a block at a time",
            formula="x + W [attend(x, window), attend(x, R)], R = gate(R, attend(R, block))",
            paper="arXiv:2203.07852",
            time="causal",
            example={"heads": 2, "window": 4, "states": 3, "gate": "lstm", "config": "dual"},
        ),
        _COMPONENT(
            name="encoder",
            factory="speechkit_mixers.encoder:encoder",
            summary="Layers of attention that may read the values of the first one",
            formula="x + W_o attention(norm(x), v), then x + W_2 f(W_1 norm(x)), v = V or V_1",
            paper="arXiv:2410.17897",
            time="lookahead",
            example={"value": "res"},
        ),
        _COMPONENT(
            name="rcl",
            factory="speechkit_mixers.rcl:rcl",
            summary="Recurrent convolutions: each sub-block reads its own output t times",
            formula="y_i = g(x + y_{i-1}), y_0 = g(x)",
            paper="arXiv:1802.06955",
            time="lookahead",
        ),
        _COMPONENT(
            name="rglru",
            factory="speechkit_mixers.rglru:rglru",
            summary="Causal gated linear recurrence, multiplied by a gate, in place of the body",
            formula="x + W_o(gelu(W_y n) * rg_lru(conv(W_x n))), n = norm(x)",
            paper="arXiv:2412.14294",
            time="causal",
            example={"heads": 4},
        ),
        Component(
            name="rin",
            factory="speechkit_mixers.rin:rin",
            summary="Latents read a block of frames, attend to each other and write to it",
            formula="Z += attend(Z, X), Z += attend(Z), X += attend(X, Z), Z goes on to the next X",
            paper="arXiv:2212.11972",
            time="lookahead",
            example={"window": 4, "latents": 3, "latent_dim": 8, "heads": 2},
        ),
        _COMPONENT(
            name="rrcl",
            factory="speechkit_mixers.rcl:rrcl",
            summary="Recurrent convolutions with a residual around them",
            formula="x' + rcl(x'), x' = W x",
            paper="arXiv:1802.06955",
            time="lookahead",
        ),
        _COMPONENT(
            name="spatial_bottleneck",
            factory="speechkit_mixers.spatial_bottleneck:spatial_bottleneck",
            summary="The channel layer at a lower frame rate, between two convolutions over time",
            formula="activation(shortcut(x) + norm(up(W down(x))))",
            paper="arXiv:1608.04337",
            time="lookahead",
        ),
        _COMPONENT(
            name="trec",
            factory="speechkit_mixers.trec:trec",
            summary="Recurrence over time, attention over groups of channels, and an MLP in each",
            formula="y = b + mlp(b), b = a + attention(a), a = rglru(x)",
            paper="arXiv:2412.14294",
            time="causal",
            example={"bands": 2, "heads": 2, "mlp": 2},
        ),
    ]


@hookimpl
def speechkit_frontends() -> list[Component]:
    return [
        _COMPONENT(
            name="curve_eq",
            factory="speechkit_mixers.curve_eq:curve_eq",
            summary="Log energies, corrected by curves that a small net predicts from their mean",
            formula="x + log S(band), S linear between knots exp(p), p = MLP(mean_t x)",
            paper="arXiv:1911.13175",
            time="lookahead",
            parts={"frontend": "frontend", "normalize": "normalizer"},
            # as the front ends of the core: not by itself, but in a model
            exports=frozenset({"torch"}),
        ),
    ]


@hookimpl
def speechkit_methods() -> list[Component]:
    return [
        Component(
            name="attention_reg",
            factory="speechkit_mixers.attention_reg:AttentionReg",
            summary="A loss on attention weights that keeps their sum near 1 and their entropy low",
            formula="|ln sum A| + max(H(A / sum A) - margin * ln n, 0)",
            paper="arXiv:2302.06461",
            needs={"mixer": "mixers/attention:weight=reluformer,window=8,heads=1"},
        ),
        Component(
            name="remoe",
            factory="speechkit_mixers.moe_relu:ReMoE",
            summary="Keeps about k experts of moe_relu in use in a frame, by an adaptive L1 loss",
            formula="lambda sum_e E / (k T) #{t: r_e > 0} mean_t r_e, lambda *= 1.2^(+-1)",
            paper="arXiv:2412.14711",
            needs={"channel": "moe_relu:experts=4,hidden=3"},
        ),
    ]


@hookimpl
def speechkit_probes() -> list[Component]:
    return [
        Component(
            name="attention_entropy",
            factory="speechkit_mixers.attention_entropy:probe",
            summary="The entropy of each head's attention weights",
            formula="mean over queries of -sum_k p_k ln p_k / ln(number of keys)",
            paper="arXiv:2410.09637",
            needs={"mixer": "attention"},
        )
    ]


@hookimpl
def speechkit_stacks() -> list[Component]:
    return [
        _COMPONENT(
            name="depth_fusion",
            factory="speechkit_mixers.depth_fusion:depth_fusion",
            summary="One frame for an utterance, collected from all blocks by a gated cell",
            formula="h_l = r s(U t + b) + t s(W t + c), t = attention of h to block l, + MLP",
            paper="arXiv:2503.01980",
            time="utterance",
            example={"dim": 8, "queries": 3, "heads": 2},
        ),
        _COMPONENT(
            name="unet",
            factory="speechkit_mixers.unet:unet",
            summary="U-Net: half the frame rate after each block on the way down, and back",
            formula="u_l = b'_l(W [d_l; double(u_{l+1})]), d_{l+1} = b_{l+1}(halve(d_l))",
            paper="arXiv:1802.06955",
            time="lookahead",
            exempt={"check_time_field_in_training": "it has batch norms of its own"},
        ),
    ]
