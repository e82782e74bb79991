"""ARPA files: what they say, what is wrong with them, and where."""

import gzip
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechkit.decode.fusion import load_lm
from speechkit.decode.ngram import BEGIN, END, NGram, read_arpa, write_arpa
from speechkit.errors import SpeechkitError
from speechkit.text import ENGLISH_LABELS, Spelling

ARPA = r"""A comment before.

\data\
ngram 1=4
ngram 2=2

\1-grams:
-99	<s>	-0.3
-1.0	</s>
-0.5	one	-0.2
-0.7	two	-0.4

\2-grams:
-0.1	<s> one
-0.2 one two

\end\
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "lm.arpa").write_text(ARPA)
    return tmp_path / "lm.arpa"


def test_scores_by_hand(path: Path) -> None:
    model = read_arpa(path)
    assert model.order == 2
    assert model.words == {"one", "two"}
    assert model.score((BEGIN,), "one") == -0.1
    assert model.score(("two", "one"), "two") == -0.2
    assert model.score(("one",), END) == pytest.approx(-0.2 - 1.0)
    assert model.score(("two",), "two") == pytest.approx(-0.4 - 0.7)
    assert model.score((), "two") == -0.7
    # without <unk> an unknown word is as likely as the least likely one
    assert model.score(("one",), "three") == pytest.approx(-0.2 - 0.7)
    assert model.score(("three",), "one") == -0.5


def test_gzip_and_capitals(path: Path, tmp_path: Path) -> None:
    zipped = tmp_path / "lm.arpa.gz"
    zipped.write_bytes(gzip.compress(ARPA.replace("two", "TWO").encode()))
    assert read_arpa(zipped).score(("one",), "TWO") == -0.2
    assert read_arpa(zipped, Spelling("lower", "NFC")).log_probs == read_arpa(path).log_probs


def test_lower_case_keeps_the_likeliest_of_two(path: Path) -> None:
    path.write_text(
        ARPA.replace("ngram 1=4", "ngram 1=5").replace("-0.5	one", "-0.9	One\n-0.5	one")
    )
    assert read_arpa(path, Spelling("lower", "NFC")).score((), "one") == -0.5
    assert read_arpa(path).words == {"One", "one", "two"}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("\\data\\", "data", r":17: no \\data\\ section"),
        ("ngram 1=4", "ngram 1=5", r":13: 4 1-grams, but 5 are announced"),
        ("ngram 2=2", "ngram 3=2", r":5: 'ngram 3=2', expected ngram 2=COUNT"),
        ("ngram 1=4\nngram 2=2\n", "", r":5: '\\\\1-grams:', expected ngram 1=COUNT"),
        ("\\1-grams:", "\\2-grams:", r":7: '\\\\2-grams:', expected \\1-grams:"),
        ("-0.5	one", "-0.5x	one", r":10: '-0.5x' is not a number"),
        ("-0.5	one	-0.2", "-0.5	one	nan", r":10: 'nan' is not a number"),
        ("-0.5	one", "0.5	one", r":10: 0.5 is no log10 of a probability"),
        ("-0.5	one	-0.2", "-0.5", r":10: 1 fields, expected log10, 1 words and a back-off"),
        ("-0.7	two", "-0.7	one", r":11: 'one' is listed twice"),
        ("\\end\\", "", r":17: the file ends within the 2-grams"),
        ("\\end\\", "\\3-grams:", r":17: '\\\\3-grams:', expected \\end\\"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(path: Path, old: str, new: str, says: str) -> None:
    assert old in ARPA
    path.write_text(ARPA.replace(old, new))
    with pytest.raises(SpeechkitError, match=f"lm.arpa{says}"):
        read_arpa(path)


def complaint(path: Path) -> str | None:
    try:
        read_arpa(path)
    except SpeechkitError as error:
        return str(error)
    return None


@given(st.integers(0, len(ARPA)), st.integers(0, 12), st.text(max_size=4))
def test_any_damage_is_one_line_or_a_model(
    tmp_path_factory: pytest.TempPathFactory, at: int, length: int, new: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.arpa"
    path.write_text(ARPA[:at] + new + ARPA[at + length :], encoding="utf-8")
    message = complaint(path)
    assert message is None or ("damaged.arpa" in message and "\n" not in message)


def test_files_that_are_no_text(tmp_path: Path) -> None:
    with pytest.raises(SpeechkitError, match=r"cannot open .*absent"):
        read_arpa(tmp_path / "absent.arpa")
    (tmp_path / "lm.arpa").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpeechkitError, match=r"lm.arpa:1: not UTF-8"):
        read_arpa(tmp_path / "lm.arpa")
    (tmp_path / "lm.arpa.gz").write_bytes(b"not gzip")
    with pytest.raises(SpeechkitError, match="gz:1: not a whole gzip file"):
        read_arpa(tmp_path / "lm.arpa.gz")
    (tmp_path / "cut.arpa.gz").write_bytes(gzip.compress(ARPA.encode())[:50])
    with pytest.raises(SpeechkitError, match=r"gz:\d+: not a whole gzip file"):
        read_arpa(tmp_path / "cut.arpa.gz")
    zipped = bytearray(gzip.compress(ARPA.encode()))
    zipped[10:14] = b"\xff\xff\xff\xff"
    (tmp_path / "spoilt.arpa.gz").write_bytes(zipped)
    with pytest.raises(SpeechkitError, match=r"gz:\d+: not a whole gzip file"):
        read_arpa(tmp_path / "spoilt.arpa.gz")


def test_what_other_tools_write_is_read(path: Path) -> None:
    text = ARPA.replace("-0.5\tone\t-0.2", "-inf\tone\t-inf").replace("two", "deux\u00a0cents")
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    model = read_arpa(path)
    assert model.log_probs["one"] == model.backoffs["one"] == -99
    assert model.words == {"one", "deux\u00a0cents"}


def test_a_count_of_a_million_digits_is_one_short_line(path: Path) -> None:
    path.write_text(ARPA.replace("ngram 1=4", "ngram 1=" + "4" * 10**6))
    with pytest.raises(SpeechkitError, match=r"lm.arpa:\d+: .*expected ngram 1=COUNT") as refused:
        read_arpa(path)
    assert len(str(refused.value)) < 450


words = st.text(alphabet="abcé'", min_size=1, max_size=3)
log10 = st.floats(-90, 0).map(lambda x: round(x, 6))


@given(st.dictionaries(words, log10, min_size=1), st.dictionaries(words, log10), st.booleans())
def test_reading_undoes_writing(
    tmp_path_factory: pytest.TempPathFactory,
    log_probs: dict[str, float],
    backoffs: dict[str, float],
    zipped: bool,
) -> None:
    path = tmp_path_factory.getbasetemp() / ("written.arpa.gz" if zipped else "written.arpa")
    model = NGram(1, log_probs, {w: b for w, b in backoffs.items() if w in log_probs})
    write_arpa(model, path)
    again = read_arpa(path)
    assert (again.log_probs, again.backoffs) == (model.log_probs, model.backoffs)


@pytest.mark.skipif("SPEECHKIT_DATA" not in os.environ, reason="set SPEECHKIT_DATA")
def test_the_model_of_an4_loads() -> None:
    path = Path(os.environ["SPEECHKIT_DATA"]) / "an4" / "an4.ug.lm"
    model = load_lm(path, ENGLISH_LABELS)
    assert {"zero", "rubout", "a"} <= set(model.words)
    assert model.score((BEGIN,), "zero") == -2.0253
