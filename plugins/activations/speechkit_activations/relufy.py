"""Replaces the activations of trained models by ReLU."""

import math
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from speechkit.component import Spec
from speechkit.errors import ComponentError
from speechkit.models import Model, build
from speechkit.plugins import registry
from speechkit.probes import Examples
from speechkit.transforms import Transform, required
from speechkit_activations.sparsity import calls

MOST_VALUES = 2**24
"""The number of input values of activations from which a shift is estimated."""


def relufy(activation: str = "relu", stage: int = 1, zeros: float | None = None) -> Transform:
    """A transform that replaces a model's activation by `activation`.

    With `zeros` it is `shifted_relu:b=B`; B ≥ 0 is chosen for about that share of zeros in the
    recordings. Stage 2 also puts a ReLU before each 1×1 layer (`relu_linear`), since the output of
    a depthwise convolution has no zeros. The scores differ unless the activations were ReLU:
    fine-tune the model. Mirzadeh et al., arXiv:2310.04564.
    """
    if stage not in (1, 2):
        raise ComponentError(f"relufy: stage={stage}; give 1 or 2")
    if zeros is not None and (activation != "relu" or not 0 <= zeros <= 1):
        raise ComponentError(
            f"relufy: zeros={zeros}, activation={activation}; give a share from 0 to 1 and no "
            "activation"
        )

    def apply(model: Model, examples: Examples | None) -> tuple[Model, dict[str, Any]]:
        chosen = Spec.parse(activation)
        if zeros is not None:
            b = shift(model, required(examples, f"relufy:zeros={zeros}"), zeros)
            chosen = Spec("shifted_relu", {"b": b})
        made = with_activation(model, chosen, stage)
        report = {
            "before": sorted({str(spec) for spec in _named(model, "activation")}),
            "activation": str(made.config.activation),
            "channel": str(made.config.channel),
        }
        return made, report

    return apply


def with_activation(model: Model, activation: Spec, stage: int) -> Model:
    """The net with one activation in the places of all, and the other weights of `model`."""
    for spec in (*_named(model, "activation"), activation):
        if registry().find("activation", spec.name).component.in_factor > 1:
            raise ComponentError(f"relufy: activation {spec} is gated; give one that is not")
    known = model.state_dict()
    config = replace(
        model.config,
        activation=activation,
        blocks=tuple(replace(block, activation=None) for block in model.config.blocks),
    )
    if stage == 2:
        for spec in _named(model, "channel"):
            if spec != Spec("linear"):
                raise ComponentError(f"relufy: stage 2 of channel={spec}; give one of linear")
        blocks = tuple(replace(block, channel=None) for block in config.blocks)
        config = replace(config, channel="relu_linear", blocks=blocks)
        known = {name.replace(".channel.", ".channel.linear."): x for name, x in known.items()}
    made = build(config).train(model.training)
    # parameters of the old activations are dropped; those of the new ones have their initial values
    made.load_state_dict(known, strict=False)
    return made.to(next(model.parameters()).device)


def _named(model: Model, kind: str) -> list[Spec]:
    """The components of a kind that the net or one of its rows names."""
    return [spec for named, spec in model.config.components() if named == kind]


@torch.no_grad()
def shift(model: Model, examples: Examples, share: float) -> float:
    """The quantile b ≥ 0 of the activations' inputs in valid frames: `share` of them are at most b.

    With `shifted_relu:b=B` this share of outputs is zero. Mirzadeh et al., arXiv:2310.04564.
    """
    found = []
    for batch, features in examples:
        made = calls(model, partial(model.score, features))
        read = [given for name, given, _ in made if name.endswith("activation")]
        rows = len(batch.indices) / len(examples.utterances)
        found += [
            _spaced(c.x.transpose(1, 2)[c.valid], rows * MOST_VALUES / len(read)) for c in read
        ]
    values = torch.cat(found)
    rank = min(max(math.ceil(share * len(values)), 1), len(values))
    return max(values.kthvalue(rank).values.item(), 0.0)


def _spaced(frames: Tensor, most: float) -> Tensor:
    """The values of evenly spaced frames of `[N, C]`, at most `most` values."""
    return frames[:: max(1, math.ceil(frames.numel() / most))].flatten()
