"""Heads for speechkit, by name once the package is installed: `head="tversky"`.

Nothing here imports torch.
"""

from functools import partial

from speechkit import Component, hookimpl

_HEAD = partial(Component, exports=frozenset({"torch", "torch.export", "onnx"}))
_CLIP = partial(_HEAD, task="clip", time="utterance")
_POOLED = partial(_CLIP, parts={"pool": "pool"})


@hookimpl
def speechkit_heads() -> list[Component]:
    return [
        _POOLED(
            name="relu",
            factory="speechkit_heads.relu:relu",
            summary="Scores that are ReLUs; if none is above 0, the label `reject`",
            formula="log(max(W pool(x) + b, 0) + eps)",
            paper="arXiv:1803.08375",
        ),
        _POOLED(
            name="tversky",
            factory="speechkit_heads.tversky:tversky",
            summary="Similarities of an utterance to a prototype of each label, by shared features",
            formula="theta common(z, p) - alpha only(z, p) - beta only(p, z), z = pool(x)",
            paper="arXiv:2506.11035",
        ),
        _HEAD(
            name="tversky_frame",
            task="frame",
            factory="speechkit_heads.tversky:tversky_frame",
            summary="Similarities of each frame to a prototype of each label, by shared features",
            formula="theta common(x, p) - alpha only(x, p) - beta only(p, x)",
            paper="arXiv:2506.11035",
            exempt={"check_half_precision": "[a <= 0] differs where rounding changes a's sign"},
        ),
        _POOLED(
            name="matryoshka",
            factory="speechkit_heads.matryoshka:matryoshka",
            summary="Logits that the first channels alone can give too",
            formula="W[:, :m] pool(x)[:m] + b, m = nesting, 2 nesting, ..., C",
            paper="arXiv:2205.13147",
        ),
        _HEAD(
            name="convex_relu",
            task="frame",
            factory="speechkit_heads.convex:convex_relu",
            summary="Logits at every frame: linear, ReLU, linear; convex_fit sets the weights",
            formula="A relu(W x + b)",
            paper="arXiv:2105.12237",
        ),
        _POOLED(
            name="prescriptive",
            task="heads/choice",
            factory="speechkit_heads.prescriptive:prescriptive",
            summary="Minus the predicted cost of each action: a pool, then linear, ReLU, linear",
            formula="-(W2 relu(W1 pool(x) + b1) + b2)",
            paper="arXiv:2306.00651",
            example={"hidden": 6, "forbid": "b"},
        ),
        _POOLED(
            name="icl_adapt",
            factory="speechkit_heads.icl_adapt:head",
            summary="A clip head after some steps of gradient descent on clips that it keeps",
            formula="W h + b - (lr / n) sum_s sum_i (softmax(z_i) - y_i) (<h_i, h> + 1)",
            paper="arXiv:2411.16549",
        ),
        _CLIP(
            name="meta_token",
            factory="speechkit_heads.meta_token:MetaToken",
            summary="A learned token attends to the frames, and tells at which of them it looked",
            formula="W sum_t w_t x_t + b, w = softmax_t(m . x_t)",
            paper="arXiv:2305.18832",
        ),
        _CLIP(
            name="duma",
            factory="speechkit_heads.duma:Duma",
            summary="Scores of labels from attention between the frames and the labels' letters",
            formula="w . (mean_t p' * mean_j q'), q' = LN(q + attend(q, p)), p' = LN(p + "
            "attend(p, q'))",
            paper="arXiv:2001.09415",
        ),
    ]


@hookimpl
def speechkit_tasks() -> list[Component]:
    return [
        Component(
            name="choice",
            factory="speechkit_heads.prescriptive:Choice",
            summary="The action with the lowest cost, learned from a log of actions and costs",
            formula="argmin_a f_a(x)",
            paper="arXiv:2306.00651",
            exempt={
                "check_targets_fit_the_loss": "its labels are an action and its cost",
                "check_task_trains": "its labels are an action and its cost",
            },
        )
    ]


@hookimpl
def speechkit_losses() -> list[Component]:
    return [
        Component(
            name="prescriptive",
            factory="speechkit_heads.prescriptive:PrescriptiveLoss",
            summary="The estimated cost of the choices, and the error of the predicted costs",
            formula="mu sum_a pi_a c_a + (1 - mu) (c - f_z)^2, pi = softmax(-f / temperature)",
            paper="arXiv:2306.00651",
        )
    ]


@hookimpl
def speechkit_probes() -> list[Component]:
    return [
        Component(
            name="relu_tree",
            factory="speechkit_heads.relu_tree:relu_tree",
            summary="The decisions of a head of linear layers and ReLU as a tree of hyperplanes",
            formula="leaf: scores = A (x, 1); node: w (x, 1) > 0",
            paper="arXiv:2306.00651",
            needs={"head": "prescriptive"},
        )
    ]


@hookimpl
def speechkit_methods() -> list[Component]:
    return [
        Component(
            name="matryoshka",
            factory="speechkit_heads.matryoshka:Matryoshka",
            summary="The loss of each prefix of a head matryoshka",
            formula="sum_m loss(W[:, :m] z[:m] + b, y)",
            paper="arXiv:2205.13147",
            parts={"loss": "loss"},
            needs={"head": "matryoshka"},
        )
    ]


@hookimpl
def speechkit_transforms() -> list[Component]:
    return [
        Component(
            name="prefix",
            factory="speechkit_heads.matryoshka:Prefix",
            summary="Cuts a net with a head matryoshka to the first channels of its last row",
            formula="W[:, :m] z[:m] + b",
            paper="arXiv:2205.13147",
            example={"channels": 4},
            needs={"head": "matryoshka"},
        ),
        Component(
            name="convex_fit",
            factory="speechkit_heads.convex:ConvexFit",
            summary="A head of two layers for two labels, by a convex program (extra convex)",
            formula="min mean_k (1 - y_k f_k + eps ||df/dx||_1)_+ + beta/2 (||W||^2 + ||A||^2)",
            paper="arXiv:2105.12237",
            needs={"head": "frame", "labels": ["a", "b"]},
            example={"patterns": 4, "frames": 20},
        ),
        Component(
            name="enrol",
            factory="speechkit_heads.enrol:enrol",
            summary="New labels for a clip classifier, from a few clips of each",
            formula="min mean_i -log p(y_i | h_i) + mean_j -log(1 - p_new(h_j))",
            needs={"head": "clip", "labels": ("a", "c")},
        ),
        Component(
            name="icl_adapt",
            factory="speechkit_heads.icl_adapt:transform",
            summary="New labels for a clip classifier: the head keeps clips, no weight changes",
            formula="W h + b - (lr / n) sum_s sum_i (softmax(z_i) - y_i) (<h_i, h> + 1)",
            paper="arXiv:2411.16549",
            needs={"head": "clip", "labels": ("a", "c")},
        ),
        Component(
            name="relabel",
            factory="speechkit_heads.duma:relabel",
            summary="Other labels for a model with head duma, scored by their spelling",
            formula="names of rows of the head's prompts",
            example={"labels": "low high"},
            needs={"head": "duma"},
            exempt={"check_transform_makes_a_model": "its models read whole utterances"},
        ),
    ]
