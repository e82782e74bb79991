"""The scores of a clip from those of its windows."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechkit.cli.models import load_net
from speechkit.config import from_dict
from speechkit.errors import ConfigError
from speechkit.models import MatchboxNet
from speechkit.plans.source import about_of
from speechkit.rules.spotting import Spotting, clip_logits

LABELS = "yes", "no", "unknown", "background"
RULE = Spotting(window_s=0.5, clip_skips=("background",))


def logits(**frames: str) -> np.ndarray:
    """Ten frames of background; `at_7="no"` makes no probable in frame 7."""
    found = np.zeros((10, len(LABELS)), np.float32)
    found[:, 3] = 9
    for name, label in frames.items():
        found[int(name.removeprefix("at_"))] = 9 * (np.array(LABELS) == label)
    return found


def label(scores: np.ndarray) -> str:
    return LABELS[int(clip_logits(RULE, LABELS, scores, frame_s=0.1).argmax())]


def test_windows_of_background_do_not_count() -> None:
    assert label(logits()) == "background"
    assert label(logits(at_7="no")) == "no"
    # unknown is no background: most of the windows decide
    assert label(logits(at_7="no", at_8="unknown", at_9="unknown")) == "unknown"
    found = clip_logits(RULE, LABELS, logits(at_7="no", at_8="yes"), frame_s=0.1)
    np.testing.assert_array_equal(found, [4.5, 4.5, 0, 0])


def test_windows_that_begin_before_the_clip_do_not_count() -> None:
    assert label(logits(at_3="yes")) == "background"
    assert label(logits(at_4="yes")) == "yes"


def test_where_all_windows_are_background_the_least_probable_counts() -> None:
    scores = logits()
    scores[6] = [0, 8, 0, 9]
    np.testing.assert_array_equal(clip_logits(RULE, LABELS, scores, 0.1), scores[6])


@given(st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_a_clip_shorter_than_the_window_is_one_window(frames: int, seed: int) -> None:
    scores = np.random.default_rng(seed).normal(size=(frames, len(LABELS)))
    np.testing.assert_array_equal(clip_logits(RULE, LABELS, scores, 0.1), scores[-1])


@pytest.mark.parametrize(
    ("skips", "message"), [(("one", "onne"), "'onne'. Did you mean 'one'"), (LABELS, "all labels")]
)
def test_labels_that_a_model_cannot_leave_out_are_refused(
    skips: tuple[str, ...], message: str
) -> None:
    rule = Spotting(clip_skips=skips)
    labels = LABELS if skips == LABELS else ("one", "two")
    with pytest.raises(ConfigError, match=message):
        MatchboxNet(labels=labels, spotting=rule)
    with pytest.raises(ConfigError, match=message):
        replace(about_of(load_net("digits")), labels=labels, spotting=rule)


def test_a_label_that_is_no_text_is_refused() -> None:
    with pytest.raises(ConfigError, match="clip_skips"):
        from_dict(Spotting, {"clip_skips": [1]}, "spotting")
