"""The window of a clip in which a word is the most probable."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechkit.config import from_dict
from speechkit.errors import ConfigError
from speechkit.rules.spotting import Spotting, best_window

LABELS = "yes", "no", "unknown", "background"
RULE = Spotting(window_s=0.5, clips="window")


def logits(**frames: str) -> np.ndarray:
    """Ten frames of background; `at_3="yes"` makes yes probable in frame 3."""
    found = np.zeros((10, len(LABELS)), np.float32)
    found[:, 3] = 4
    for name, label in frames.items():
        found[int(name.removeprefix("at_")), LABELS.index(label)] = 9
    return found


def best(scores: np.ndarray) -> str:
    return LABELS[int(best_window(RULE, LABELS, scores, frame_s=0.1).argmax())]


def test_the_window_with_the_most_probable_word_counts() -> None:
    assert best(logits()) == "background"
    assert best(logits(at_7="no")) == "no"
    # labels that are never detected do not choose the window
    assert best(logits(at_7="no", at_8="unknown", at_9="unknown")) == "no"


def test_windows_that_begin_before_the_clip_do_not_count() -> None:
    assert best(logits(at_3="yes")) == "background"
    assert best(logits(at_4="yes")) == "yes"


@given(st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_a_clip_shorter_than_the_window_is_one_window(frames: int, seed: int) -> None:
    scores = np.random.default_rng(seed).normal(size=(frames, len(LABELS)))
    np.testing.assert_array_equal(best_window(RULE, LABELS, scores, 0.1), scores[-1])


def test_a_model_without_words_has_the_first_window() -> None:
    scores = np.arange(20.0).reshape(10, 2)
    found = best_window(RULE, ("unknown", "background"), scores, 0.1)
    np.testing.assert_array_equal(found, scores[4])


def test_another_reading_of_clips_is_refused() -> None:
    with pytest.raises(ConfigError, match="clips"):
        from_dict(Spotting, {"clips": "half"}, "spotting")
