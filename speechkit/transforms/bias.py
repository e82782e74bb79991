"""Changes the bias of a label, so that the model predicts it more or less often."""

import copy
import math
from typing import Any

import torch
from torch import nn

from speechkit.errors import ConfigError
from speechkit.models import Model
from speechkit.probes import Examples


class Bias:
    """b_k ← b_k + by for the label k; without a label, for the blank of CTC.

    `by` is in nats, the unit of the logits. A net trained with masks makes more deletions than
    insertions; a lower bias of the blank corrects this. Raises ConfigError if the head has no bias,
    or none for that label.
    """

    def __init__(self, by: float, label: str | None = None) -> None:
        if not math.isfinite(by):
            raise ConfigError(f"bias: by={by}; give a finite number")
        self.by, self.label = by, label

    def __call__(self, model: Model, examples: Examples | None) -> tuple[Model, dict[str, Any]]:
        made = copy.deepcopy(model)
        bias = _bias(made)
        index = self._index(made, len(bias))
        before = bias[index].item()
        with torch.no_grad():
            bias[index] += self.by
        label = "blank" if self.label is None else self.label
        return made, {"label": label, "before": before, "after": bias[index].item()}

    def _index(self, model: Model, scores: int) -> int:
        if self.label in model.labels:
            return model.labels.index(self.label)
        if self.label is not None:
            raise ConfigError(f"bias: no label {self.label!r}; give {_some(model.labels)}")
        if scores == len(model.labels):
            raise ConfigError(
                f"bias: a {model.config.kind} has no blank; give label={_some(model.labels)}"
            )
        return scores - 1


def _bias(model: Model) -> nn.Parameter:
    """The head's only bias `[n]` with an entry for each label, and for the blank if any."""
    counts = len(model.labels), len(model.labels) + 1
    found = [
        parameter
        for name, parameter in model.head.named_parameters()
        if name.rpartition(".")[2] == "bias" and parameter.ndim == 1 and len(parameter) in counts
    ]
    if len(found) != 1:
        raise ConfigError(
            f"bias: head {model.config.head} has {len(found)} biases of labels; it takes one"
        )
    return found[0]


def _some(labels: tuple[str, ...]) -> str:
    return ", ".join(map(repr, labels[:5])) + (", ..." if len(labels) > 5 else "")
