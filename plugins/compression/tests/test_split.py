"""Recordings for training, and others to measure with."""

from pathlib import Path

import pytest
from speechkit_compression.split import split

from speechkit.data import Utterance
from speechkit.errors import ConfigError

ROWS = [Utterance(audio=Path(f"{i}.wav"), duration_s=1.0) for i in range(12)]


def test_every_fifth_recording_is_held_out() -> None:
    training, held_out = split(ROWS, "compress")
    assert held_out == [ROWS[0], ROWS[5], ROWS[10]]
    assert sorted([*training, *held_out], key=ROWS.index) == ROWS


@pytest.mark.parametrize("count", [0, 1])
def test_one_recording_is_too_few(count: int) -> None:
    with pytest.raises(ConfigError, match=f"compress: {count} recording; give at least two"):
        split(ROWS[:count], "compress")
