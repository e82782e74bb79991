"""The average of models of one shape whose training parted late: it hears better than either.

    python recipes/an4/average.py OUT MODEL MODEL...

Writes OUT in float16. Source: Wortsman et al., Model soups, arXiv:2203.05482.
"""

import sys

import torch

import speechkit as sk
from speechkit.models import Model


def average(models: list[Model]) -> Model:
    """The first model with the mean of all weights and statistics."""
    states = [model.state_dict() for model in models]
    for name, value in states[0].items():
        if value.is_floating_point():
            value.copy_(torch.stack([state[name] for state in states]).mean(0))
    return models[0]


if __name__ == "__main__":
    out, *folders = sys.argv[1:]
    sk.save(average([sk.load(folder) for folder in folders]).half(), out)
