"""Error rates, accuracy and area under the curve against hand counts and brute force."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechkit.errors import SpeechkitError
from speechkit.tasks.metrics import (
    Bin,
    Edits,
    accuracy,
    alignment,
    auc,
    calibration_error,
    cer,
    confusion,
    delays_s,
    f1,
    reliability,
    roc,
    wer,
    word_edits,
)


def distance(a: list[str], b: list[str]) -> int:
    """Edit distance by its recursion over prefixes."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


def test_wer_pools_the_corpus() -> None:
    # one substitution in four words, none in one: 1/5, where the mean of rates would be 1/8
    assert wer(["a b c d", "e"], ["a b x d", "e"]) == pytest.approx(1 / 5)


def test_cer_counts_inner_spaces() -> None:
    assert cer(["a b"], ["ab"]) == pytest.approx(1 / 3)


def test_rates_may_exceed_one() -> None:
    assert wer(["a"], ["b c d"]) == 3.0


def test_empty_references_count_insertions() -> None:
    assert wer(["", "a b"], ["x y", "a b"]) == 1.0
    assert wer([""], ["x y"]) == 2.0
    assert wer(["", ""], ["", ""]) == cer([""], [""]) == 0.0


words = st.lists(st.sampled_from(["a", "bb", "c"]), min_size=1, max_size=6)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(words, words), min_size=1, max_size=3))
def test_rates_are_edit_distances(pairs: list[tuple[list[str], list[str]]]) -> None:
    references = [" ".join(r) for r, _ in pairs]
    hypotheses = [" ".join(h) for _, h in pairs]
    edits = sum(distance(r, h) for r, h in pairs)
    assert wer(references, hypotheses) == pytest.approx(edits / sum(len(r) for r, _ in pairs))
    letters = sum(distance([*r], [*h]) for r, h in zip(references, hypotheses, strict=True))
    assert cer(references, hypotheses) == pytest.approx(letters / sum(map(len, references)))


def test_edits_are_counted_by_kind() -> None:
    edits = word_edits(["a b c d", "e"], ["a x c", "e f"])
    assert edits == Edits(hits=3, substitutions=1, deletions=1, insertions=1)
    assert (edits.units, edits.rate) == (5, 3 / 5)


@settings(deadline=None, max_examples=50)
@given(words, words)
def test_an_alignment_holds_all_words_with_the_fewest_edits(r: list[str], h: list[str]) -> None:
    steps = alignment(" ".join(r), " ".join(h))
    assert [word for step in steps for word in step.reference] == r
    assert [word for step in steps for word in step.hypothesis] == h
    wrong = [step for step in steps if step.kind != "equal"]
    assert sum(max(len(s.reference), len(s.hypothesis)) for s in wrong) == distance(r, h)
    kinds = {(bool(s.reference), bool(s.hypothesis)): s.kind for s in wrong}
    named = {(True, True): "substitute", (True, False): "delete", (False, True): "insert"}
    assert kinds.items() <= named.items()


@pytest.mark.parametrize(("reference", "hypothesis"), [("", "a b"), ("a b", ""), ("", "")])
def test_an_alignment_with_nothing_is_all_of_the_other(reference: str, hypothesis: str) -> None:
    steps = alignment(reference, hypothesis)
    assert [word for step in steps for word in step.reference] == reference.split()
    assert [word for step in steps for word in step.hypothesis] == hypothesis.split()


def test_accuracy_by_hand() -> None:
    assert accuracy([0, 1, 2, 1], [0, 1, 1, 1]) == 0.75
    assert accuracy(torch.tensor([3, 3]), torch.tensor([3, 3])) == 1.0


@pytest.mark.parametrize(
    ("labels", "scores", "expected"),
    [
        ([0, 1], [0.1, 0.9], 1.0),
        ([0, 1], [0.9, 0.1], 0.0),
        ([0, 1], [0.5, 0.5], 0.5),
        ([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], 0.75),
    ],
)
def test_auc_by_hand(labels: list[int], scores: list[float], expected: float) -> None:
    assert auc(labels, scores) == pytest.approx(expected)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 4), min_size=1), st.lists(st.integers(0, 4), min_size=1))
def test_auc_counts_pairs_with_ties_as_half(positives: list[int], negatives: list[int]) -> None:
    wins = sum((p > n) + (p == n) / 2 for p in positives for n in negatives)
    labels = [1] * len(positives) + [0] * len(negatives)
    expected = wins / (len(positives) * len(negatives))
    assert auc(labels, positives + negatives) == pytest.approx(expected)


@pytest.mark.parametrize("metric", [wer, cer, accuracy, auc])
def test_mismatched_and_empty_input_is_refused(metric: Callable) -> None:
    with pytest.raises(SpeechkitError, match="2 references, 1 outputs"):
        metric(["a", "b"], ["a"])
    with pytest.raises(SpeechkitError, match="nothing to score"):
        metric([], [])


def test_auc_refuses_what_it_cannot_rank() -> None:
    with pytest.raises(SpeechkitError, match="give 0 and 1 only"):
        auc([0, 2], [0.1, 0.2])
    with pytest.raises(SpeechkitError, match="NaN"):
        auc([0, 1], [0.1, float("nan")])
    with pytest.raises(SpeechkitError, match="2 positives, 0 negatives"):
        auc([1, 1], [0.1, 0.2])


def test_f1_counts_hits_twice() -> None:
    labels = torch.tensor([True, True, True, False, False])
    decisions = torch.tensor([True, True, False, True, False])
    assert f1(labels, decisions) == pytest.approx(4 / 6)
    assert f1(labels[3:], labels[3:]) == 1


def test_delays_are_those_of_the_first_decision_near_each_edge() -> None:
    found = delays_s([1.0, 5.0, 9.0], [0.9, 1.3, 5.25, 5.5, 11.0])
    assert found == pytest.approx([-0.1, 0.25])


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 4), min_size=1), st.lists(st.integers(0, 4), min_size=1))
def test_the_area_under_roc_is_auc(positives: list[int], negatives: list[int]) -> None:
    labels, scores = [1] * len(positives) + [0] * len(negatives), positives + negatives
    x, y = roc(labels, scores).double().T
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert torch.trapezoid(y, x).item() == pytest.approx(auc(labels, scores), abs=1e-6)


def test_roc_keeps_its_ends_with_few_points() -> None:
    points = roc([0, 1] * 500, [i / 1000 for i in range(1000)], points=10)
    assert len(points) == 11
    assert (points[0].tolist(), points[-1].tolist()) == ([0, 0], [1, 1])


def test_confusion_has_references_in_rows() -> None:
    assert confusion([0, 0, 1, 2], [0, 2, 1, 1], 3).tolist() == [[1, 0, 1], [0, 1, 0], [0, 1, 0]]


def test_reliability_groups_scores_of_a_tenth() -> None:
    bins = reliability([0.0, 0.05, 0.55, 1.0], [False, True, True, True])
    assert bins == [Bin(2, 0.025, 0.5), Bin(1, 0.55, 1.0), Bin(1, 1.0, 1.0)]
    assert calibration_error(bins) == pytest.approx((2 * 0.475 + 0.45) / 4)
