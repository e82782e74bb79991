"""What decided on one recording: which sounds, and in which frequencies."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechkit.errors import ConfigError
from speechkit.models import Model, evaluating
from speechkit.plans.checks import check_length
from speechkit_probes.attribution import attribution, best, excitation

LONGEST_S = 60.0
GAP_S = 0.06
"""Parts that are closer together are one part."""


@dataclass(frozen=True)
class Part:
    """A part of the recording, and its share of all positive attributions."""

    start_s: float
    end_s: float
    share: float


@dataclass(frozen=True)
class Explanation:
    """What was decided, and the features and their attributions `[F, T]`.

    `labels` are those of the clip, or of the frames without repetitions, and `text` has them in a
    row, with CTC without spaces. `parts` are the fewest frames that hold the asked share of the
    positive attributions, joined where they are close.
    """

    labels: tuple[str, ...]
    text: str
    frame_s: float
    features: Tensor
    attribution: Tensor
    parts: tuple[Part, ...]


def explain(
    model: Model, samples: NDArray[np.float32], share: float = 0.5, temperature: float = 0.3
) -> Explanation:
    """The explanation of the model's decision on `samples` `[N]` at its sample rate.

    The attribution is that of the probe `excitation_pullback`: the gradient of the score of what
    the model predicts, with σ(z / temperature) for the derivative of activations, times the
    distance of a feature from its mean. Raises ConfigError for more than 60 s, and AudioError for
    less than a frame.
    """
    duration_s = len(samples) / model.sample_rate
    if duration_s > LONGEST_S:
        raise ConfigError(
            f"explain: the recording has {duration_s:.0f} s; give a part of at most {LONGEST_S:.0f}"
        )
    check_length(len(samples), model.sample_rate, model.frontend.stride)
    with evaluating(model), torch.no_grad():
        features = model.features(torch.from_numpy(samples)[None])
        output = model.score(features)
    labels = best(model, output)
    with evaluating(model):
        found = attribution(model, features, labels, excitation(temperature))[0]
    frame_s = model.frontend.stride / model.frontend.rate / model.sample_rate
    named = tuple(model.labels[label] for label in _runs(labels) if label < len(model.labels))
    return Explanation(
        named,
        ("" if model.config.task == "ctc" else " ").join(named),
        frame_s,
        features.x[0],
        found,
        tuple(parts(found.clamp(min=0).sum(0), frame_s, share)),
    )


def parts(weights: Tensor, frame_s: float, share: float) -> list[Part]:
    """The parts of the fewest frames that hold `share` of the weights `[T]`, in time."""
    whole = weights.sum()
    if not whole > 0:
        return []
    values, order = weights.sort(descending=True)
    count = int((values.cumsum(0) < share * whole).sum()) + 1
    gap = max(1, round(GAP_S / frame_s))
    found: list[list[int]] = []
    for frame in sorted(order[:count].tolist()):
        if found and frame - found[-1][1] <= gap:
            found[-1][1] = frame
        else:
            found.append([frame, frame])
    return [
        Part(a * frame_s, (b + 1) * frame_s, float(weights[a : b + 1].sum() / whole))
        for a, b in found
    ]


def _runs(labels: Tensor) -> list[int]:
    """The labels of a row without repetitions and frames without a label."""
    kept = [int(label) for label in torch.unique_consecutive(labels.flatten())]
    return [label for label in kept if label >= 0]
