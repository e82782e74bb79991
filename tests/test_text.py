"""Normalisation, encoding, and greedy CTC of a batch."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechkit.errors import ConfigError, ManifestError, SpeechkitError
from speechkit.text import ENGLISH_LABELS, decode, encode, greedy_ctc, normalize

LABELS = ("a", "b", "c")
BLANK = len(LABELS)
english = st.text(alphabet=ENGLISH_LABELS)
paths = st.lists(st.integers(0, BLANK), max_size=20)


def scores(path: list[int]) -> torch.Tensor:
    """Log-probabilities `[T, V + 1]` whose best labels are `path`."""
    return torch.eye(BLANK + 1)[torch.tensor(path, dtype=torch.long)].log_softmax(-1)


def collapsed(path: list[int]) -> list[int]:
    return [label for label, _ in itertools.groupby(path) if label != BLANK]


def test_english_labels_are_space_letters_apostrophe() -> None:
    assert len(ENGLISH_LABELS) == 28
    assert (ENGLISH_LABELS[0], ENGLISH_LABELS[1], ENGLISH_LABELS[26]) == (" ", "a", "z")
    assert ENGLISH_LABELS[27] == "'"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, World!", "hello world"),
        ("  a\t b\n", "a b"),
        ("well-known — yes…", "well known yes"),
        ("Don’t; it's", "don't it's"),
        ("Café naïve ÅNGSTRÖM", "cafe naive angstrom"),
        ("R&B + ten%", "r and b plus ten percent"),
        ("soft\u00adhyphen", "softhyphen"),
        ("ﬁne İ", "fine i"),
        ("", ""),
        ("?!", ""),
    ],
)
def test_english_normalisation(text: str, expected: str) -> None:
    assert normalize(text) == expected
    assert normalize(expected) == expected


def test_none_leaves_the_text_as_it_is() -> None:
    assert normalize("Bä  c", "none", labels=[*"Bäc "]) == "Bä  c"


@pytest.mark.parametrize("name", ["english", "none"])
def test_a_character_that_is_no_label_is_named_with_its_text(name: str) -> None:
    with pytest.raises(ManifestError, match=r"'route 66' has '6'"):
        normalize("route 66", name)


def test_an_unknown_normalisation_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'english'"):
        normalize("a", "englisch")


def test_encode_by_hand() -> None:
    ids = encode("a z'")
    assert ids.dtype == torch.int64
    assert ids.tolist() == [1, 0, 26, 27]
    assert encode("").shape == (0,)
    with pytest.raises(ManifestError, match="'A'"):
        encode("A")


def test_the_longest_label_comes_first() -> None:
    labels = (*ENGLISH_LABELS, "eight", "eighty", "teen")
    pieces = [labels[i] for i in encode("eighteen eighty h sixteen", labels)]
    assert pieces == ["eight", *"een ", "eighty", *" h six", "teen"]


@settings(deadline=None, max_examples=50)
@given(english, st.lists(st.text("aeiout ", min_size=2, max_size=4), max_size=5, unique=True))
def test_decode_undoes_encode(text: str, pieces: list[str]) -> None:
    labels = (*ENGLISH_LABELS, *pieces)
    assert decode(encode(text, labels), labels) == text


@pytest.mark.parametrize("i", [-100, 28])
def test_decode_refuses_padding_and_blanks(i: int) -> None:
    with pytest.raises(SpeechkitError, match=f"id {i} is none of 28 labels"):
        decode([1, i])


def test_greedy_ctc_by_hand() -> None:
    # a a _ a b b _ | the second row ends after two frames
    log_probs = torch.stack([scores([0, 0, 3, 0, 1, 1, 3]), scores([3, 2, 0, 0, 0, 0, 0])])
    assert greedy_ctc(log_probs, torch.tensor([7, 2])) == [[0, 0, 1], [2]]
    assert greedy_ctc(log_probs, torch.tensor([0, 7])) == [[], [2, 0]]


@settings(deadline=None, max_examples=50)
@given(paths)
def test_greedy_ctc_collapses_like_groupby(path: list[int]) -> None:
    assert greedy_ctc(scores(path)[None], torch.tensor([len(path)])) == [collapsed(path)]
