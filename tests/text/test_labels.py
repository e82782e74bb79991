"""Files, normalisation, encoding, and greedy CTC of a batch."""

import contextlib
import gzip
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechkit.errors import ConfigError, ManifestError, SpeechkitError
from speechkit.text import (
    ENGLISH_LABELS,
    decode,
    encode,
    greedy_ctc,
    normalize,
    normalized,
    read_lines,
    read_text,
)

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
    assert ids.dtype == np.int64
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
    assert greedy_ctc(log_probs, [7, 2]) == [[0, 0, 1], [2]]
    assert greedy_ctc(log_probs, [0, 7]) == [[], [2, 0]]


@settings(deadline=None, max_examples=50)
@given(paths)
def test_greedy_ctc_collapses_like_groupby(path: list[int]) -> None:
    assert greedy_ctc(scores(path)[None], [len(path)]) == [collapsed(path)]


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"\xef\xbb\xbfone\ntwo\n", ["one", "two"]),
        (b"one\r\n\r\ntwo", ["one", "", "two"]),
        (b"one\rtwo\r", ["one", "two"]),
        ("a\u2028b\x0cc\u0085d\n".encode(), ["a\u2028b\x0cc\u0085d"]),
        (gzip.compress(b"\xef\xbb\xbfone\ntwo", mtime=0), ["one", "two"]),
    ],
)
def test_lines_are_those_of_any_editor(tmp_path: Path, content: bytes, lines: list[str]) -> None:
    path = tmp_path / ("a.txt.gz" if content[:1] == b"\x1f" else "a.txt")
    path.write_bytes(content)
    assert read_lines(path) == lines
    assert read_text(str(path)) == "\n".join(lines)


def test_a_text_that_cannot_be_read_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("eins\n\nzwölf".encode("latin1"))
    with pytest.raises(ManifestError, match=r"a\.txt:3: not UTF-8; save"):
        read_lines(path)
    path.write_bytes("one".encode("utf-16"))
    with pytest.raises(ManifestError, match=r"a\.txt:1: not UTF-8"):
        read_lines(path)
    with pytest.raises(ManifestError, match=r"cannot open .*none\.txt: No such file"):
        read_text(tmp_path / "none.txt")
    with pytest.raises(ManifestError, match="Is a directory"):
        read_text(tmp_path)
    zipped = tmp_path / "a.txt.gz"
    zipped.write_bytes(gzip.compress(b"one\n" * 1000, mtime=0)[:30])
    with pytest.raises(ManifestError, match=r"a\.txt\.gz:\d+: not a whole gzip file"):
        read_lines(zipped)
    zipped.write_bytes(b"one\n")
    with pytest.raises(ManifestError, match=r"a\.txt\.gz:1: not a whole gzip file"):
        read_lines(zipped)


@pytest.mark.parametrize("limit", ["MAX_JSON_BYTES", "MAX_TEXT_BYTES"])
def test_a_text_is_bounded_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(f"speechkit.text.labels.{limit}", 1000)
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(b"a" * 600 + b"\n" + b"b" * 100_000, mtime=0))
    with pytest.raises(ManifestError, match=r"bomb\.gz:2: .*split it"):
        read_lines(tmp_path / "bomb.gz")
    (tmp_path / "long.txt").write_text("a\n" * 600)
    if limit == "MAX_TEXT_BYTES":
        with pytest.raises(ManifestError, match=r"long\.txt:501: .*split it"):
            read_lines(tmp_path / "long.txt")


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r\ufeff"))))
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "written.txt"
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    assert read_lines(path) == lines


@given(st.text(st.characters(codec="utf-8")), st.sampled_from(["english", "none"]))
def test_a_normalised_text_is_of_labels_or_refused(text: str, name: str) -> None:
    labels = [*ENGLISH_LABELS, "é", "ß"]
    with contextlib.suppress(ManifestError):
        found = normalize(text, name, labels)
        assert set(found) <= set(labels)
        assert normalize(found, name, labels) == found


def test_a_text_that_cannot_be_spelled_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("\ufeffOne,\r\n\r\n Two\r\n", encoding="utf-8")
    assert normalized(tmp_path / "text.txt", "english", ENGLISH_LABELS) == "one two"
    (tmp_path / "text.txt").write_text("one\n\nroute 66\n")
    with pytest.raises(ManifestError, match=r"text\.txt:3: text 'route 66' has '6'"):
        normalized(tmp_path / "text.txt", "english", ENGLISH_LABELS)
