"""Recordings for training, and others to measure with."""

from collections.abc import Sequence

from speechkit.data import Utterance
from speechkit.errors import ConfigError

HELD_OUT = 5
"""Every so many recordings one is held out."""


def split(utterances: Sequence[Utterance], user: str) -> tuple[list[Utterance], list[Utterance]]:
    """The recordings to train on, and those that are held out; ConfigError for fewer than two."""
    if len(utterances) < 2:
        raise ConfigError(
            f"{user}: {len(utterances)} recording; give at least two, of which one is held out"
        )
    return [u for i, u in enumerate(utterances) if i % HELD_OUT], [*utterances[::HELD_OUT]]
