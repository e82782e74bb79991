"""Weights in a file: each comes back with its bits, and damaged parts are refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from speechkit.io.untrusted import UntrustedError
from speechkit.plans.halves import BLOCK, joined, split


@given(st.integers(0, 3 * BLOCK + 5), st.integers(0, 2**32 - 1), st.data())
def test_weights_come_back_with_their_bits(count: int, seed: int, data: st.DataObject) -> None:
    weights = np.random.default_rng(seed).standard_normal(count).astype(np.float16)
    bits = weights.astype(np.float32).view(np.uint32)
    at = data.draw(st.lists(st.integers(0, max(0, count - 1)), max_size=3)) if count else []
    bits[at] = data.draw(arrays(np.uint32, len(at)))
    parts = split(bits.view(np.float32))
    assert np.array_equal(joined(*parts).view(np.uint32), bits)


def test_blocks_in_half_precision_take_half_the_bytes() -> None:
    weights = np.arange(2 * BLOCK, dtype=np.float32)
    weights[BLOCK] = 0.1
    rest, halves, marks = split(weights)
    assert (rest.size, halves.shape, marks.tolist()) == (BLOCK, (1, BLOCK), [1, 0])


@pytest.mark.parametrize("part", [1, 2])
def test_parts_that_do_not_fit_together_are_refused(part: int) -> None:
    parts = list(split(np.arange(2 * BLOCK + 3, dtype=np.float32)))
    parts[part] = parts[part][:-1]
    with pytest.raises(UntrustedError, match="do not fit together"):
        joined(*parts)
