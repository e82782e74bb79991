"""Estimated models: they sum to one, agree with a sum by hand, and refuse what is no text."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechkit.decode.kneser_ney import FEW, _discounts, estimate
from speechkit.decode.ngram import BEGIN, END, UNKNOWN, NGram, read_arpa, write_arpa
from speechkit.errors import ConfigError, SpeechkitError

sentences = st.lists(
    st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=8).map(" ".join), min_size=1
)


def sum_after(model: NGram, history: tuple[str, ...]) -> float:
    return sum(10 ** model.score(history, word) for word in (*model.words, END, UNKNOWN))


@given(sentences, st.integers(1, 4))
def test_all_words_sum_to_one_after_every_history(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], order: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "estimated.arpa"
    write_arpa(estimate(lines, order), path)
    model = read_arpa(path)
    histories = {(), ("never", "seen")}
    for line in lines:
        words = (BEGIN, *line.split())
        histories |= {
            words[max(0, end - n) : end] for end in range(len(words) + 1) for n in range(4)
        }
    for history in histories:
        assert sum_after(model, history) == pytest.approx(1, abs=1e-6)


def test_discounts_follow_the_counts_of_counts() -> None:
    counts = {("w", str(i)): count for i, count in enumerate([1] * 8 + [2] * 4 + [3] * 2 + [4])}
    # Y = 8 / (8 + 2 · 4) = 0.5
    assert _discounts(counts) == pytest.approx((1 - 0.5, 2 - 3 * 0.5 * 2 / 4, 3 - 4 * 0.5 / 2))
    assert _discounts({("a",): 1}) == FEW


def test_a_bigram_model_by_hand() -> None:
    model = estimate(["a b", "a c"], order=2)
    # seen: <s> a (2), a b, b </s>, a c, c </s> (1 each); few, so the discounts are FEW.
    # before a: <s>; before b: a; before c: a; before </s>: b and c. 5 in all, of which three
    # once and one twice leave 3 · 0.5 + 1 for the uniform share of a, b, c, </s>, <unk>
    freed = (3 * 0.5 + 1.0) / 5
    p_a = (1 - 0.5) / 5 + freed / 5
    p_end = (2 - 1.0) / 5 + freed / 5
    assert 10 ** model.score((), "a") == pytest.approx(p_a)
    assert 10 ** model.score((), END) == pytest.approx(p_end)
    assert 10 ** model.score((), "z") == pytest.approx(freed / 5)
    assert 10 ** model.score((BEGIN,), "a") == pytest.approx((2 - 1.0) / 2 + 1.0 / 2 * p_a)
    # after a: b once, c once
    assert 10 ** model.score(("a",), END) == pytest.approx(2 * 0.5 / 2 * p_end)


def test_frequent_words_are_likelier() -> None:
    model = estimate(["call jon now"] * 5 + ["call ann"], order=3)
    assert model.score((BEGIN, "call"), "jon") > model.score((BEGIN, "call"), "ann")
    assert model.score(("call", "jon"), "now") > model.score(("call", "ann"), "now")


@pytest.mark.parametrize(
    ("lines", "says"), [([], "no words"), (["", " "], "no words"), (["a <s>"], "has <s>")]
)
def test_what_is_no_text_is_refused(lines: list[str], says: str) -> None:
    with pytest.raises(SpeechkitError, match=says):
        estimate(lines)


def test_an_order_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="order=0"):
        estimate(["a"], order=0)
