"""The average of models of one shape."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from speechkit.checkpoint import load
from speechkit.errors import ConfigError
from speechkit.models import Model
from speechkit.probes import Examples


class Average:
    """W = (W_0 + ... + W_n) / (n + 1) of a model and `models`, for all weights and statistics.

    The average is often better than each model, if all were fine-tuned from the same checkpoint.
    `models` are folders or names of bundled models: a list, or one string with spaces between them.
    A model may be listed twice. The config is that of the first model. The report has the distance
    ‖W_i − W‖ / ‖W‖ of each model. ConfigError for a model with other labels or another shape.
    Source: Wortsman et al., Model soups, arXiv:2203.05482.
    """

    def __init__(self, models: str | Sequence[str]) -> None:
        self.models = models.split() if isinstance(models, str) else list(models)

    def __call__(self, model: Model, examples: Examples | None) -> tuple[Model, dict[str, Any]]:
        others = {name: load(name) for name in self.models}
        for name, other in others.items():
            _check(name, model, other)
        models = [model, *(others[name] for name in self.models)]
        states = [each.state_dict() for each in models]
        made = copy.deepcopy(model)
        for name, value in made.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.stack([state[name].double() for state in states]).mean(0))
        mean = _weights(made)
        distances = [((_weights(each) - mean).norm() / mean.norm()).item() for each in models]
        return made, {"distances": distances}


def _check(name: str, model: Model, other: Model) -> None:
    """Raises ConfigError unless both have the same labels and tensors of the same shapes."""
    for what in ("labels", "sample_rate"):
        if getattr(model, what) != getattr(other, what):
            raise ConfigError(
                f"average: {name} has other {what} than the first model; give models of the same"
            )
    own, its = ({k: list(x.shape) for k, x in m.state_dict().items()} for m in (model, other))
    for key in sorted(own.keys() | its.keys()):
        there, here = its.get(key, "absent"), own.get(key, "absent")
        if there != here:
            raise ConfigError(
                f"average: {key} is {there} in {name} and {here} in the first model; give models "
                "of one shape"
            )


def _weights(model: Model) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
