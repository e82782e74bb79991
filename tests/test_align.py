import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from speechkit.align import align
from speechkit.errors import SpeechkitError


def collapse(path: tuple[int, ...], blank: int) -> list[int]:
    return [label for label, _ in itertools.groupby(path) if label != blank]


@given(
    st.lists(st.integers(0, 1), min_size=1, max_size=3), st.integers(3, 6), st.integers(0, 10**6)
)
def test_finds_the_best_of_all_paths(ids: list[int], frames: int, seed: int) -> None:
    log_probs = torch.randn(frames, 3, generator=torch.Generator().manual_seed(seed)).log_softmax(1)
    paths = [p for p in itertools.product(range(3), repeat=frames) if collapse(p, 2) == ids]
    if not paths:
        with pytest.raises(SpeechkitError, match="do not fit"):
            align(log_probs, torch.tensor(ids))
        return
    best = max(paths, key=lambda path: sum(log_probs[t, s].item() for t, s in enumerate(path)))
    runs, at = [], 0
    for label, group in itertools.groupby(best):
        length = len(list(group))
        if label != 2:
            runs.append((at, at + length - 1))
        at += length
    assert align(log_probs, torch.tensor(ids)) == runs


def test_an_empty_text_has_no_spans() -> None:
    assert align(torch.zeros(4, 3).log_softmax(1), torch.tensor([], dtype=torch.int64)) == []
