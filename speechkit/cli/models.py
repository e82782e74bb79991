"""Loading a model for a command."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from speechkit.models import Model

SMALL = 1_000_000
"""Below this many parameters a second thread costs more than it gives, on a busy machine much."""


def load_model(name: str) -> "Model":
    """The model of a command, and one thread for it where it is small."""
    import torch

    from speechkit.checkpoint import load

    model = load(name)
    if sum(parameter.numel() for parameter in model.parameters()) < SMALL:
        torch.set_num_threads(1)
    return model
