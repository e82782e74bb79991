"""Probabilities of logits, however large."""

import numpy as np
import pytest

from speechkit.rules.probability import softmax, speech_probability

LOGITS = np.array([[0, 0], [3, -1], [-1000, 1000], [2e4, 1e4], [-np.inf, 0]], np.float32)


def test_probabilities_are_shares_of_the_exponentials() -> None:
    found = softmax(np.log(np.array([[1, 2, 5], [4, 4, 8]], np.float32)))
    np.testing.assert_allclose(found, [[1 / 8, 2 / 8, 5 / 8], [1 / 4, 1 / 4, 1 / 2]], rtol=1e-6)
    assert found.dtype == np.float64
    assert softmax(LOGITS).sum(-1) == pytest.approx(1)


def test_one_frame_has_the_probability_of_many() -> None:
    for row, of_many in zip(LOGITS.tolist(), softmax(LOGITS)[:, 1], strict=True):
        assert speech_probability(row) == pytest.approx(of_many, rel=1e-12)
