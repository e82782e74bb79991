"""Probes that look inside trained models, by name once the package is installed.

Nothing here imports torch.
"""

from typing import Any

from speechkit import Component, hookimpl


@hookimpl
def speechkit_probes() -> list[Component]:
    return [
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
            name="neural_code",
            factory="speechkit_probes.neural_code:neural_code",
            summary="A code of bits for each utterance, and how well it tells labels apart",
            formula="bit_u = 1[share of frames with z_u > 0 is above share]",
            paper="arXiv:2101.05490",
        ),
        Component(
            name="relp",
            factory="speechkit_probes.relp:relp",
            summary="How well one backward pass predicts the effect of noise through each channel",
            formula="sum_t (a_noise - a) * gradient, with y / z for the derivative of y(z)",
            paper="arXiv:2508.21258",
            example={"pairs": 2},
        ),
    ]


@hookimpl
def speechkit_commands(cli: Any) -> None:
    from speechkit_probes.command import explain

    cli.command("explain")(explain)
