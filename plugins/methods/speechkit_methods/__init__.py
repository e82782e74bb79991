"""Training methods and what goes with them, by name once the package is installed: losses,
optimizers, schedules, initial weights and probes. `method=("sam",)` is an example.

Nothing here imports torch.
"""

from typing import Any

from speechkit import Component, hookimpl


@hookimpl
def speechkit_methods() -> list[Component]:
    return [
        Component(
            name="sam",
            factory="speechkit_methods.sam:SAM",
            summary="Sharpness-aware minimisation: the gradient where the loss nearby is worst",
            formula="g = grad L(w + rho * grad L(w) / ||grad L(w)||); adaptive: |w| scales both",
            paper="arXiv:2010.01412, arXiv:2102.11600",
            example={"rho": 0.5, "adaptive": True},
        ),
        Component(
            name="grad_noise",
            factory="speechkit_methods.noise:GradientNoise",
            summary="Normal noise on the gradients, less with each step",
            formula="g += N(0, eta / (1 + step)^gamma)",
            paper="arXiv:1511.06807",
            example={"eta": 0.3, "gamma": 0.55},
        ),
        Component(
            name="hypernet",
            factory="speechkit_methods.hypernet:Hypernet",
            summary="Trains n numbers from which a fixed random matrix computes all weights",
            formula="W = start + scale * P z, P of N(0, 1) from a seed",
            paper="arXiv:2403.19163",
            example={"n": 4, "seed": 1},
        ),
        Component(
            name="relora",
            factory="speechkit_methods.relora:ReLoRA",
            summary="Trains matrices by low-rank updates, one after another",
            formula="W = base + alpha / rank * B A; base = W and B = 0 again every `every` steps",
            paper="arXiv:2307.05695",
            example={"rank": 2, "every": 1},
        ),
        Component(
            name="mobiletl",
            factory="speechkit_methods.mobiletl:MobileTL",
            summary="Fine-tunes the last blocks, and stores little for the backward pass",
            formula="inner norms: grad of their bias only; activations: g * 1[x > 0]",
            paper="arXiv:2212.03246",
            example={"blocks": 1},
        ),
        Component(
            name="folding_reg",
            factory="speechkit_methods.folding:FoldingReg",
            summary="Rewards paths between utterances on which units turn on and off again",
            formula="-weight * chi of the codes sigmoid(z / tau)",
            paper="arXiv:2503.08502",
            example={"weight": 0.1, "points": 4},
        ),
        Component(
            name="branch_power_decay",
            factory="speechkit_methods.branches:BranchPowerDecay",
            summary="Weight decay of each block's body with the power of its depth",
            formula="weight * sum_i 1/L_i sum_l ||W_il||^L_i",
            paper="arXiv:2110.06482",
            example={"weight": 0.01},
        ),
        Component(
            name="latent_nbest",
            factory="speechkit_methods.latent_nbest:LatentNBest",
            summary="Trains a recogniser and a classifier of its n best transcripts together",
            formula="-sum_k q_k (log p(h_k|x) + log p(y|h_k) - log q_k), q = softmax(joint / tau)",
            paper="arXiv:2306.12509",
            example={"n": 4},
        ),
        Component(
            name="noprop",
            factory="speechkit_methods.noprop:NoProp",
            summary="Trains each block of a head noprop on a loss of its own (experimental)",
            formula="T/2 eta (snr_t - snr_(t-1)) ||u_t(z_(t-1), x) - u||^2",
            paper="arXiv:2503.24322",
            needs={"head": "noprop:blocks=2,width=8,kernel=3"},
        ),
    ]


@hookimpl
def speechkit_heads() -> list[Component]:
    return [
        Component(
            name="noprop",
            factory="speechkit_methods.noprop:NoPropHead",
            task="clip",
            time="utterance",
            summary="Denoises a label in steps, each with a net of its own (experimental)",
            formula="z_t = a_t u_t(z_(t-1), x) + b_t z_(t-1)",
            paper="arXiv:2503.24322",
            exports=frozenset({"torch", "torch.export", "onnx"}),
            example={"blocks": 2, "width": 8, "kernel": 3},
            exempt={"check_gradients": "block 1 reads z_0 = 0; its weights for z train with noise"},
        ),
    ]


@hookimpl
def speechkit_schedules() -> list[Component]:
    return [
        Component(
            name="jagged",
            factory="speechkit_methods.schedules:jagged",
            summary="A cosine that restarts at 0, for the method relora",
            formula="(step - k) / restart * cosine(k + restart) after a restart at k, then cosine",
            paper="arXiv:2307.05695",
            example={"every": 50, "restart": 10, "warm": 30},
        ),
        Component(
            name="two_stage",
            factory="speechkit_methods.two_stage:two_stage",
            summary="A small learning rate first, then the whole one",
            formula="first until step switch, then 1",
            paper="arXiv:1709.06129",
            example={"switch": 0.25, "first": 0.1},
        ),
    ]


@hookimpl
def speechkit_probes() -> list[Component]:
    return [
        Component(
            name="sharpness",
            factory="speechkit_methods.sharpness:sharpness",
            summary="The trace of the loss's Hessian",
            formula="mean of z^T H z over random signs z",
            paper="arXiv:2307.11007",
            example={"vectors": 4},
            needs={"head": "clip"},
        ),
        Component(
            name="space_folding",
            factory="speechkit_methods.folding:space_folding",
            summary="How far the on/off codes of a path between utterances come back to the start",
            formula="chi = 1 - max_i d(c_1, c_i) / sum_i d(c_i, c_i+1)",
            paper="arXiv:2502.09954, arXiv:2503.08502",
            example={"pairs": 3, "points": 9},
        ),
        Component(
            name="weight_rank",
            factory="speechkit_methods.branches:weight_rank",
            summary="The effective rank of each layer's matrix",
            formula="exp of the entropy of the singular values / their sum",
            paper="arXiv:2110.06482",
        ),
    ]


@hookimpl
def speechkit_inits() -> list[Component]:
    return [
        Component(
            name="kumar",
            factory="speechkit_methods.inits:kumar",
            summary="Weights that preserve the signal's variance through an elementwise activation",
            formula="w of variance 1 / (fan_in g'(0)^2 (1 + g(0)^2)); 2 / fan_in for a kink at 0",
            paper="arXiv:1704.08863",
        ),
        Component(
            name="small_balanced",
            factory="speechkit_methods.inits:small_balanced",
            summary="Small weights in the last two layers, in and out of each neuron equally large",
            formula="w_j ~ N(0, size^2), ||v_j|| = ||w_j|| for neuron j of V relu(W x)",
            paper="arXiv:2307.12851",
            example={"size": 1e-3},
        ),
    ]


@hookimpl
def speechkit_losses() -> list[Component]:
    return [
        Component(
            name="matching",
            factory="speechkit_methods.matching:Matching",
            summary="A convex loss whose gradient is activation(score) - target",
            formula="sum_k G(z_k) - y_k z_k, G' = activation",
            paper="arXiv:2306.07892",
            example={"activation": "relu"},
        ),
    ]


@hookimpl
def speechkit_optimizers() -> list[Component]:
    return [
        Component(
            name="noisy_sgd",
            factory="speechkit_methods.noisy_sgd:NoisySGD",
            summary="Stochastic gradient descent with normal noise set by a temperature",
            formula="w -= lr * (g + weight_decay * w) + sqrt(2 * lr * temperature) * N(0, 1)",
            paper="arXiv:2111.02278",
            example={"lr": 0.01, "temperature": 1e-6, "weight_decay": 1e-3},
        ),
    ]


@hookimpl
def speechkit_commands(cli: Any) -> None:
    from speechkit_methods.command import verify

    cli.command("verify")(verify)
