"""The greedy reading in chunks."""

import itertools
import json

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechkit.decode.greedy import GreedyCTC
from speechkit.text import decode, greedy_ctc

LABELS = ("a", "b", "c")
BLANK = len(LABELS)
paths = st.lists(st.integers(0, BLANK), max_size=20)


def scores(path: list[int]) -> np.ndarray:
    """Log-probabilities `[T, V + 1]` whose best labels are `path`."""
    return torch.eye(BLANK + 1)[torch.tensor(path, dtype=torch.long)].log_softmax(-1).numpy()


def collapsed(path: list[int]) -> list[int]:
    return greedy_ctc(scores(path)[None], [len(path)])[0]


@settings(deadline=None, max_examples=50)
@given(paths, st.lists(st.integers(0, 20), max_size=5))
def test_greedy_chunks_give_the_whole_text(path: list[int], cuts: list[int]) -> None:
    decoder = GreedyCTC(LABELS)
    state = decoder.init()
    edges = [0, *sorted(cuts), len(path)]
    for start, end in itertools.pairwise(edges):
        state, text = decoder.step(state, scores(path[start:end]))
        assert text == decode(collapsed(path[: max(start, end)]), LABELS)
    assert decoder.finish(state) == decode(collapsed(path), LABELS)


def test_a_greedy_step_leaves_its_state_alone() -> None:
    decoder = GreedyCTC(LABELS)
    state, _ = decoder.step(decoder.init(), scores([0]))
    first = decoder.step(state, scores([1]))
    assert decoder.step(state, scores([1])) == first
    assert first[1] == "ab"


def test_a_greedy_state_survives_json_and_names_its_labels() -> None:
    decoder = GreedyCTC(LABELS)
    state, text = decoder.step(decoder.init(), scores([0, 0, 3, 2, 1]))
    assert decoder.restore(json.loads(json.dumps(state))) == state
    assert decoder.ids(state) == (0, 2, 1)
    assert decoder.stable(state) == text == "acb"
