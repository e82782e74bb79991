"""Probes that look inside trained models, by name once the package is installed.

Nothing here imports torch.
"""

from typing import Any

from speechkit import Component, hookimpl


@hookimpl
def speechkit_probes() -> list[Component]:
    return [
        Component(
            name="activation_regions",
            factory="speechkit_probes.regions:activation_regions",
            summary="Whether neighbouring and distant frames use different units",
            formula="share of bits [z > 0] that differ",
            paper="arXiv:2301.05816",
        ),
        Component(
            name="depth_usage",
            factory="speechkit_probes.depth_usage:depth_usage",
            summary="What each residual block adds, and what later blocks do without it",
            formula="|b| / |s|, cos(b, s), |b_j - b_j'| / |b_j|",
            paper="arXiv:2505.13898",
        ),
        Component(
            name="excitation_pullback",
            factory="speechkit_probes.excitation_pullback:excitation_pullback",
            summary="What the score loses without the features that an attribution names",
            formula="backward: g * sigmoid(z / temperature)",
            paper="arXiv:2507.22832",
        ),
        Component(
            name="functional_dimension",
            factory="speechkit_probes.functional_dimension:functional_dimension",
            summary="How many of a part's weights the scores can tell apart",
            formula="rank of d scores / d weights",
            paper="arXiv:2306.06179",
            example={"rows": 1},
        ),
        Component(
            name="geometry",
            factory="speechkit_probes.geometry:geometry",
            summary="What the blocks keep of the input's geometry, of labels and of speakers",
            formula="<K, L> / |K| |L|, cos of label differences across speakers",
            paper="arXiv:2401.13558",
        ),
        Component(
            name="gradient_confusion",
            factory="speechkit_probes.regions:gradient_confusion",
            summary="Whether utterances pull the weights in one direction",
            formula="cos(grad loss_i, grad loss_j)",
            paper="arXiv:2301.05816",
            example={"pairs": 3},
        ),
        Component(
            name="implicit_attention",
            factory="speechkit_probes.implicit_attention:implicit_attention",
            summary="Whether the frames that the mixers weigh most are those that the score needs",
            formula="prod_l (|alpha_l| + I) / 2, y = alpha(x) x",
            paper="arXiv:2405.16504",
        ),
        Component(
            name="knots_1d",
            factory="speechkit_probes.knots:knots_1d",
            summary="Where units switch and the score turns as noise is added",
            formula="share of units and frames that switch in a step of the SNR",
            paper="arXiv:2111.02278",
            example={"points": 5, "clips": 2},
        ),
        Component(
            name="linear_regions",
            factory="speechkit_probes.linear_regions:linear_regions",
            summary="How often the units switch on a path between utterances",
            formula="flips, regions <= flips + 1, pieces",
            paper="arXiv:2505.16716",
            example={"pairs": 1, "points": 9, "depth": 1},
        ),
        Component(
            name="manifoldron",
            factory="speechkit_probes.manifoldron:manifoldron",
            summary="The regions of labels in the plane of the last hidden layer, and outliers",
            formula="Delaunay triangles of near neighbours, for each label",
            paper="arXiv:2201.05279",
            exempt={"check_probe_finds_the_same": "a region needs more recordings of a label"},
        ),
        Component(
            name="memorization",
            factory="speechkit_probes.memorization:memorization",
            summary="How many random labels a fresh net of the model's config can learn",
            formula="max N with N random labels learnt",
            paper="arXiv:2110.03187",
            example={"counts": "2", "steps": 3},
            needs={"head": "clip"},
        ),
        Component(
            name="neural_code",
            factory="speechkit_probes.neural_code:neural_code",
            summary="A code of bits for each utterance, and how well it tells labels apart",
            formula="bit_u = 1[share of frames with z_u > 0 is above share]",
            paper="arXiv:2101.05490",
        ),
        Component(
            name="ntk",
            factory="speechkit_probes.ntk:ntk",
            summary="How alike a step on one utterance changes the scores of others",
            formula="sum_p df(x_i)/dp * df(x_j)/dp",
            paper="arXiv:2205.12372",
            example={"utterances": 4},
        ),
        Component(
            name="patch_similarity",
            factory="speechkit_probes.patch_similarity:patch_similarity",
            summary="How alike neighbouring patches of the features are",
            formula="cos(x[t : t + k], x[t + 1 : t + k + 1])",
            paper="arXiv:1709.06129",
        ),
        Component(
            name="redshift",
            factory="speechkit_probes.redshift:redshift",
            summary="How simple the functions of nets with random weights are",
            formula="sum |f| P(f) / sum P(f) of the first logit over a plane",
            paper="arXiv:2403.02241",
            example={"nets": 1, "grid": 6, "scales": "1 8"},
        ),
        Component(
            name="relp",
            factory="speechkit_probes.relp:relp",
            summary="How well one backward pass predicts the effect of noise through each channel",
            formula="sum_t (a_noise - a) * gradient, with y / z for the derivative of y(z)",
            paper="arXiv:2508.21258",
            example={"pairs": 2},
        ),
        Component(
            name="stream_dynamics",
            factory="speechkit_probes.stream_dynamics:stream_dynamics",
            summary="How frames move through blocks of one width",
            formula="cos(h_l, h_l+1), |h_l+1 - h_l| / |h_l|, turns, |h'_L - h_L| / |delta|",
            paper="arXiv:2502.12131",
        ),
    ]


@hookimpl
def speechkit_commands(cli: Any) -> None:
    from speechkit_probes.command import explain

    cli.command("explain")(explain)
