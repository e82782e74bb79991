"""Loading a model for a command that only asks it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from speechkit.models import Model

SMALL = 1_000_000
"""Below this many parameters a second thread costs more than it gives, on a busy machine much."""


def load_model(name: str) -> "Model":
    """The model of a command, prepared, and one thread for it where it is small."""
    from speechkit.checkpoint import load
    from speechkit.models import prepare

    model = load(name)
    small = sum(parameter.numel() for parameter in model.parameters()) < SMALL
    return prepare(model, threads=1 if small else None)
