"""Loading a model for a command that only asks it, and what the model is for."""

from typing import TYPE_CHECKING

from speechkit.cli.output import complain

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


def tell_purpose(name: str) -> None:
    """Prints on stderr, in one line, what the model is for, where its folder has a card."""
    from speechkit.card import read_card
    from speechkit.checkpoint import find

    if card := read_card(find(name)):
        complain("note", f"{name} {card.purpose}")
