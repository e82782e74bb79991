"""The best path through a text, and the times and scores of its words."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechkit.errors import SpeechkitError
from speechkit.events import Word
from speechkit.text import align as module
from speechkit.text.align import align, characters_of, words_from_characters, words_of

LABELS = (" ", "a", "b")
BLANK = len(LABELS)
FRAME_S = 0.02


def collapse(path: tuple[int, ...], blank: int) -> list[int]:
    return [label for label, _ in itertools.groupby(path) if label != blank]


def random_scores(frames: int, classes: int, seed: int) -> np.ndarray:
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(frames, classes, generator=generator)).log_softmax(1).numpy()


def shortest(ids: list[int]) -> int:
    return len(ids) + sum(a == b for a, b in itertools.pairwise(ids))


@given(
    st.lists(st.integers(0, 1), min_size=1, max_size=3), st.integers(3, 6), st.integers(0, 10**6)
)
def test_finds_the_best_of_all_paths(ids: list[int], frames: int, seed: int) -> None:
    log_probs = random_scores(frames, 3, seed)
    paths = [p for p in itertools.product(range(3), repeat=frames) if collapse(p, 2) == ids]
    if not paths:
        with pytest.raises(SpeechkitError, match="do not fit"):
            align(log_probs, np.array(ids))
        return
    best = max(paths, key=lambda path: sum(log_probs[t, s].item() for t, s in enumerate(path)))
    runs, at = [], 0
    for label, group in itertools.groupby(best):
        length = len(list(group))
        if label != 2:
            runs.append((at, at + length - 1))
        at += length
    assert align(log_probs, np.array(ids)) == runs


def test_a_long_text_has_its_spans() -> None:
    ids = np.random.default_rng(0).integers(0, 28, 200).tolist()
    log_probs = np.full((1000, 29), -20.0, np.float32)
    log_probs[:, 28] = -0.1
    for index, label in enumerate(ids):
        log_probs[5 * index + 2, label] = 0
    spans = align(log_probs, ids)
    assert spans == [(5 * index + 2, 5 * index + 2) for index in range(200)]


def test_an_empty_text_has_no_spans() -> None:
    assert align(np.zeros((4, 3), np.float32), []) == []


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(0, 60))
def test_a_window_around_the_best_state_finds_the_path_that_the_scores_spell(
    seed: int, count: int, silence: int
) -> None:
    chance = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 3, (count,), generator=chance)
    path = [BLANK] * silence
    for i in ids.tolist():
        path += [i] * int(torch.randint(1, 4, (1,), generator=chance)) + [BLANK]
    log_probs = (
        (5 * torch.nn.functional.one_hot(torch.tensor(path), 4).float()).log_softmax(1).numpy()
    )
    whole = align(log_probs, ids.numpy())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WIDTH", 16)
        assert align(log_probs, ids.numpy()) == whole


@settings(max_examples=300)
@given(
    st.lists(st.integers(0, 1), min_size=1, max_size=40),
    st.integers(0, 30),
    st.integers(0, 99),
    st.integers(2, 12),
)
def test_whatever_the_window_the_spans_spell_the_text(
    ids: list[int], more: int, seed: int, width: int
) -> None:
    frames = shortest(ids) + more
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WIDTH", width)
        spans = align(random_scores(frames, 3, seed), ids)
    path = [2] * frames
    for label, (first, last) in zip(ids, spans, strict=True):
        assert 0 <= first <= last < frames
        path[first : last + 1] = [label] * (last + 1 - first)
    assert collapse(tuple(path), 2) == ids


def test_scores_of_minus_infinity_are_a_text_that_does_not_fit() -> None:
    log_probs = np.full((5, 3), -np.inf, np.float32)
    log_probs[:, 2] = 0
    with pytest.raises(SpeechkitError, match="1 labels do not fit into 5 frames"):
        align(log_probs, [0])


def test_spans_cost_what_torchaudios_do() -> None:
    try:
        from torchaudio.functional import forced_align

        forced_align(torch.zeros(1, 3, 3), torch.tensor([[0]]), blank=2)
    except (ImportError, OSError, RuntimeError) as error:
        pytest.skip(f"torchaudio's forced_align does not run: {error}")
    for seed in range(30):
        ids = torch.randint(0, 4, (20,), generator=torch.Generator().manual_seed(seed))
        log_probs = torch.from_numpy(random_scores(100, 5, seed))
        path, scores = forced_align(log_probs[None], ids[None].int(), blank=4)
        ours = torch.full((100,), 4)
        for label, (first, last) in zip(ids, align(log_probs.numpy(), ids.numpy()), strict=True):
            ours[first : last + 1] = label
        assert collapse(tuple(ours.tolist()), 4) == ids.tolist()
        mine = log_probs[range(100), ours].sum()
        torch.testing.assert_close(mine, scores.sum(), rtol=1e-5, atol=1e-4)
        assert (path[0] == ours).float().mean() > 0.98


texts = st.lists(st.integers(0, 2), max_size=12)


@settings(max_examples=300)
@given(
    texts,
    st.integers(0, 30),
    st.integers(0, 10**6),
    st.integers(0, 5_000_000).map(lambda us: us / 1e6),
    st.floats(0.001, 1),
)
def test_times_never_overlap_nor_leave_the_sound(
    ids: list[int], more: int, seed: int, begin_s: float, share: float
) -> None:
    frames = shortest(ids) + more
    end_s = begin_s + max(0, frames - 1 + share) * FRAME_S
    log_probs = random_scores(frames, 4, seed)
    words = words_of(log_probs, ids, LABELS, FRAME_S, begin_s=begin_s, end_s=end_s)
    characters = characters_of(log_probs, ids, LABELS, FRAME_S, begin_s=begin_s, end_s=end_s)
    assert " ".join(w.text for w in words) == " ".join("".join(LABELS[i] for i in ids).split())
    for row in (words, [c for word in characters for c in word]):
        edges = [begin_s, *(t for w in row for t in (w.start_s, w.end_s)), end_s]
        assert edges == sorted(edges)
        assert all(w.start_s < w.end_s and 0 <= w.score <= 1 for w in row)
    for word, part in zip(words, characters, strict=True):
        assert "".join(c.text for c in part) == word.text
        assert (part[0].start_s, part[-1].end_s) == (word.start_s, word.end_s)
        assert all(a.end_s == b.start_s for a, b in itertools.pairwise(part))


def spelled(path: list[int], p: float = 0.9) -> np.ndarray:
    """CTC log-probabilities whose best label has probability `p`."""
    scores = torch.full((len(path), BLANK + 1), (1 - p) / BLANK)
    scores[range(len(path)), path] = p
    return scores.log().numpy()


def test_a_word_begins_before_its_first_label_but_after_the_word_before() -> None:
    # 0.3 s of blanks, "ab", a space, "b"
    log_probs = spelled([BLANK] * 15 + [1, BLANK, 2, 2, 0, BLANK, 2, BLANK])
    first, second = words_of(log_probs, [1, 2, 0, 2], LABELS, FRAME_S)
    assert (first.text, second.text) == ("ab", "b")
    assert first.start_s == pytest.approx(0.3 - module.EARLY_S)
    assert first.end_s == second.start_s == pytest.approx(0.38)
    assert second.end_s == pytest.approx(0.44)


def test_a_word_s_score_is_the_product_of_its_labels_and_calibrated() -> None:
    log_probs = spelled([1, BLANK, 2, BLANK])
    (word,) = words_of(log_probs, [1, 2], LABELS, FRAME_S)
    assert word.score == pytest.approx(0.81)
    (word,) = words_of(log_probs, [1, 2], LABELS, FRAME_S, confidence=(2.0, 0.0))
    assert word.score == pytest.approx(0.81**2 / (0.81**2 + 0.19**2))


def test_a_label_s_score_is_its_highest_on_its_frames() -> None:
    log_probs = np.concatenate([spelled([1], 0.6), spelled([1], 0.8), spelled([BLANK])])
    ((character,),) = characters_of(log_probs, [1], LABELS, FRAME_S)
    assert character.score == pytest.approx(0.8)


def test_characters_join_to_words() -> None:
    characters = [[Word("a", 0.0, 1.0, 0.5), Word("b", 1.0, 2.0, 0.5)]]
    (word,) = words_from_characters(characters)
    assert (word.text, word.start_s, word.end_s) == ("ab", 0.0, 2.0)
    assert word.score == pytest.approx(0.25)
