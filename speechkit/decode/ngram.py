"""Back-off n-gram language models, and the ARPA files that hold them."""

import gzip
import math
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from speechkit.errors import SpeechkitError
from speechkit.io.files import atomic_file
from speechkit.limits import MAX_ORDER
from speechkit.text import Spelling, lines_of

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
RESERVED = {form: word for word in (BEGIN, END, UNKNOWN) for form in (word, word.upper())}
"""The reserved words as other tools write them."""
IMPOSSIBLE = -99.0
"""The log10 that stands for probability 0 in ARPA files."""


class LanguageModel(Protocol):
    """The interface of language models over words."""

    order: int

    @property
    def words(self) -> Collection[str]:
        """Its vocabulary, empty if it cannot list it."""
        ...

    def __contains__(self, word: str) -> bool:
        """True for a word of the vocabulary."""
        ...

    def score(self, history: Sequence[str], word: str) -> float:
        """log10 P(word | history)."""
        ...


class NGram:
    """A back-off model: `log_probs` and `backoffs`, log10, by n-grams with a space between words.

    P(w | h) is that of the n-gram "h w" where it is listed, else backoff(h) · P(w | h without its
    first word). An unknown word counts as `<unk>`, in the history too; without an `<unk>` it is as
    likely as the least likely word.
    Source: Katz, IEEE Trans. ASSP 35(3), 1987.
    """

    def __init__(self, order: int, log_probs: dict[str, float], backoffs: dict[str, float]) -> None:
        self.order, self.log_probs, self.backoffs = order, log_probs, backoffs
        self.words = frozenset(g for g in log_probs if " " not in g) - {BEGIN, END, UNKNOWN}
        self._rarest = min((log_probs[word] for word in self.words), default=IMPOSSIBLE)

    def __contains__(self, word: str) -> bool:
        return word in self.words

    def score(self, history: Sequence[str], word: str) -> float:
        """log10 P(word | history), where only the last order − 1 words of the history count."""
        known = [self._known(w) for w in (*history[max(0, len(history) - self.order + 1) :], word)]
        total = 0.0
        for first in range(len(known)):
            gram = " ".join(known[first:])
            if gram in self.log_probs:
                return total + self.log_probs[gram]
            total += self.backoffs.get(" ".join(known[first:-1]), 0.0)
        return total + self._rarest

    def _known(self, word: str) -> str:
        return word if word in self.log_probs else UNKNOWN


def read_arpa(path: str | os.PathLike[str], spelling: Spelling | None = None) -> NGram:
    """The model in an ARPA file, plain or `.gz`.

    Words take the case and form of `spelling`, except `<s>`, `</s>` and `<unk>`. Of n-grams that
    become equal by this, the most likely one is kept. Raises SpeechkitError as `lm.arpa:17: ...`.
    """
    return _Parser(Path(path), spelling).read(lines_of(path))


class _Parser:
    """Reads one ARPA file line by line, and counts lines for its error messages."""

    def __init__(self, path: Path, spelling: Spelling | None) -> None:
        self.path, self.number = path, 0
        self.merges, self.spelled = spelling is not None, spelling or str
        self.log_probs: dict[str, float] = {}
        self.backoffs: dict[str, float] = {}

    def read(self, text: Iterable[str]) -> NGram:
        lines = self._numbered(text)
        for line in lines:
            if line == "\\data\\":
                break
        else:
            raise self._error(r"no \data\ section; give an ARPA file")
        counts, line = self._counts(lines)
        for n in range(1, len(counts) + 1):
            if line != f"\\{n}-grams:":
                raise self._error(f"{line!r}, expected \\{n}-grams:")
            line = self._grams(lines, n, counts[n - 1])
        if line != "\\end\\":
            raise self._error(f"{line!r}, expected \\end\\")
        return NGram(len(counts), self.log_probs, self.backoffs)

    def _numbered(self, text: Iterable[str]) -> Iterator[str]:
        for line in text:
            self.number += 1
            # other kinds of space belong to words
            if stripped := line.strip(" \t"):
                yield stripped

    def _counts(self, lines: Iterable[str]) -> tuple[list[int], str]:
        """The number of n-grams of each order in the header, and the line after it."""
        counts: list[int] = []
        for line in lines:
            if not line.startswith("ngram "):
                break
            order, equals, count = line.removeprefix("ngram ").partition("=")
            # int accepts no more than 4300 digits
            fits = count.strip().isdecimal() and len(count) < 20
            if not equals or order.strip() != str(len(counts) + 1) or not fits:
                raise self._error(f"{line!r}, expected ngram {len(counts) + 1}=COUNT")
            counts.append(int(count))
            if len(counts) > MAX_ORDER:
                raise self._error(f"n-grams of more than {MAX_ORDER} words; give a lower order")
        else:
            raise self._error("the file ends too early")
        if not counts:
            raise self._error(f"{line!r}, expected ngram 1=COUNT")
        return counts, line

    def _grams(self, lines: Iterable[str], n: int, count: int) -> str:
        """Reads the n-grams of one order; returns the line after them."""
        found = 0
        for line in lines:
            if line[0] == "\\":
                if found != count:
                    raise self._error(f"{found} {n}-grams, but {count} are announced")
                return line
            fields = re.split("[ \t]+", line)
            if not n + 1 <= len(fields) <= n + 2:
                raise self._error(f"{len(fields)} fields, expected log10, {n} words and a back-off")
            gram = self._gram(fields[1 : n + 1])
            log_prob = self._log10(fields[0])
            if log_prob > 0:
                raise self._error(f"{fields[0]} is no log10 of a probability")
            found += 1
            if gram in self.log_probs:
                if not self.merges:
                    raise self._error(f"{gram!r} is listed twice")
                if log_prob <= self.log_probs[gram]:
                    continue
            self.log_probs[gram] = log_prob
            if len(fields) == n + 2:
                self.backoffs[gram] = self._log10(fields[-1])
        raise self._error(f"the file ends within the {n}-grams")

    def _gram(self, words: list[str]) -> str:
        gram = " ".join(words)
        if "<" not in gram:
            return self.spelled(gram)
        return " ".join(RESERVED.get(word) or self.spelled(word) for word in words)

    def _log10(self, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if value == -math.inf:
            return IMPOSSIBLE
        if not math.isfinite(value):
            raise self._error(f"{text!r} is not a number")
        return value

    def _error(self, reason: str) -> SpeechkitError:
        return SpeechkitError(f"{self.path}:{self.number}: {reason}")


def write_arpa(model: NGram, path: str | os.PathLike[str]) -> None:
    """Writes an ARPA file atomically, compressed where the name ends in `.gz`."""
    opener = gzip.open if Path(path).suffix == ".gz" else open
    with (
        atomic_file(path) as part,
        opener(part, "wt", encoding="utf-8", newline="\n") as file,
    ):
        file.writelines(f"{line}\n" for line in _arpa_lines(model))


def _arpa_lines(model: NGram) -> Iterator[str]:
    orders: list[list[str]] = [[] for _ in range(model.order)]
    for gram in model.log_probs:
        orders[gram.count(" ")].append(gram)
    yield "\\data\\"
    for n, grams in enumerate(orders, start=1):
        yield f"ngram {n}={len(grams)}"
    for n, grams in enumerate(orders, start=1):
        yield f"\n\\{n}-grams:"
        for gram in grams:
            line = f"{model.log_probs[gram]:.9g}\t{gram}"
            yield f"{line}\t{model.backoffs[gram]:.9g}" if gram in model.backoffs else line
    yield "\n\\end\\"
