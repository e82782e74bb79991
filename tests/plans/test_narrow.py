"""Weights in a file: each comes back with its bits, and damaged parts are refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from speechkit.io.untrusted import UntrustedError
from speechkit.plans.narrow import BLOCK, joined, split


@given(st.integers(0, 3 * BLOCK + 5), st.integers(0, 2**32 - 1), st.data())
def test_weights_come_back_with_their_bits(count: int, seed: int, data: st.DataObject) -> None:
    chance = np.random.default_rng(seed)
    weights = chance.standard_normal(count).astype(np.float16)
    weights[:BLOCK] = chance.integers(-128, 128, min(count, BLOCK))
    bits = weights.astype(np.float32).view(np.uint32)
    at = data.draw(st.lists(st.integers(0, max(0, count - 1)), max_size=3)) if count else []
    bits[at] = data.draw(arrays(np.uint32, len(at)))
    parts = split(bits.view(np.float32))
    assert np.array_equal(joined(parts).view(np.uint32), bits)


def four_blocks() -> NDArray[np.float32]:
    """One block for each type, another of bytes, and three more weights."""
    weights = (np.arange(4 * BLOCK + 3) % 255 - 127).astype(np.float32)
    weights[BLOCK] = 0.5
    weights[2 * BLOCK] = 0.1
    return weights


def test_a_block_takes_the_narrowest_type_that_holds_it() -> None:
    parts = split(four_blocks())
    assert parts["marks"].tolist() == [2, 1, 0, 2]
    found = {name: (x.dtype.name, x.shape) for name, x in parts.items() if name != "marks"}
    assert found == {
        "weights": ("float32", (BLOCK + 3,)),
        "halves": ("float16", (1, BLOCK)),
        "bytes": ("int8", (2, BLOCK)),
    }


def test_a_zero_below_zero_keeps_its_sign() -> None:
    weights = np.zeros(BLOCK, np.float32)
    weights[3] = -0.0
    assert np.signbit(joined(split(weights))).sum() == 1
    assert "bytes" not in split(weights)


@pytest.mark.parametrize("part", ["halves", "bytes", "marks"])
def test_parts_that_do_not_fit_together_are_refused(part: str) -> None:
    parts = split(four_blocks())
    for wrong in (parts[part][:-1], parts[part][..., :-1], parts[part] + np.int8(3)):
        if part == "marks" or wrong.shape != parts[part].shape:
            with pytest.raises(UntrustedError, match="do not fit together"):
                joined({**parts, part: wrong})
    with pytest.raises(UntrustedError, match="do not fit together"):
        joined({name: x for name, x in parts.items() if name != part})
