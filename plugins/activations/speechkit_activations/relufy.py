"""Trained models whose activations become ReLUs."""

import math
from dataclasses import replace

import torch

from speechkit.component import Spec
from speechkit.data import Batch
from speechkit.errors import ComponentError
from speechkit.models import Model, build
from speechkit.plugins import registry
from speechkit_activations.sparsity import calls


def relufy(model: Model, activation: str = "relu", stage: int = 1) -> Model:
    """A copy of a trained model with `activation` in place of its own.

    With stage 2 there is a ReLU before each 1×1 layer too (`relu_linear`): what a depthwise
    convolution gives has no zeros. Scores differ but where the activations were ReLU: train it on.
    Mirzadeh et al., arXiv:2310.04564.
    """
    config, known = replace(model.config, activation=activation), model.state_dict()
    for spec in (model.config.activation, config.activation):
        if registry().find("activation", Spec.parse(spec).name).component.in_factor > 1:
            raise ComponentError(f"relufy: activation {spec} is gated; give one that is not")
    if stage not in (1, 2):
        raise ComponentError(f"relufy: stage={stage}; give 1 or 2")
    if stage == 2:
        if config.channel != Spec("linear"):
            raise ComponentError(f"relufy: stage 2 of channel={config.channel}; give one of linear")
        config = replace(config, channel="relu_linear")
        known = {name.replace(".channel.", ".channel.linear."): x for name, x in known.items()}
    made = build(config).train(model.training)
    # what the old activations learned is left, and the new ones begin
    made.load_state_dict(known, strict=False)
    return made


@torch.no_grad()
def shift(model: Model, batch: Batch, share: float) -> float:
    """The b ≥ 0 at or below which `share` of what the activations read in valid frames lies.

    `shifted_relu:b=B` would give that many zeros of it. Mirzadeh et al., arXiv:2310.04564.
    """
    c = model.features(batch.audio, batch.lengths)
    read = [
        given.x.transpose(1, 2)[given.valid].flatten()
        for name, given, _ in calls(model, lambda: model.score(c))
        if name.endswith("activation")
    ]
    values = torch.cat(read)
    rank = min(max(math.ceil(share * len(values)), 1), len(values))
    return max(values.kthvalue(rank).values.item(), 0.0)
