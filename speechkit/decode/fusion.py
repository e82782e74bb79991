"""Scores of words in a beam search: a language model, hotwords and a length bonus."""

import math
import os
import warnings
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from speechkit.config import Config, check_range, from_dict
from speechkit.decode.kenlm import KenLM
from speechkit.decode.ngram import BEGIN, END, LanguageModel, read_arpa
from speechkit.errors import ConfigError, ManifestError
from speechkit.limits import (
    MAX_BEAM,
    MAX_HORIZON,
    MAX_HOTWORD_CHARACTERS,
    MAX_HOTWORDS,
    MAX_NUMBER,
)
from speechkit.text import Spelling, lines_of, normalize

KENLM_SUFFIXES = (".bin", ".binary", ".klm")
LN10 = math.log(10)
FEW = 0.9
"""A warning is given where the labels spell a smaller share of a language model's words."""
MODELS_KEPT = 2
"""How many language models are kept for the next decoder."""
REMEMBERED = 2**17
"""How many scores of words are kept."""

Context = tuple[tuple[str, ...], str]
"""The last complete words that matter for the scores, and the word in progress."""
Hotwords = str | os.PathLike[str] | Sequence[str] | Mapping[str, float]


class LanguageModelWarning(UserWarning):
    """The labels can spell only few of a language model's words."""


@dataclass(frozen=True, kw_only=True)
class Search(Config):
    """The numbers of a beam search and of the words' scores; described in `BeamCTC`."""

    beam: int
    alpha: float
    length_bonus: float
    unk_score: float
    hotword_boost: float
    min_log_prob: float
    margin: float
    horizon: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("beam", self.beam, 1, MAX_BEAM)
        check_range("horizon", self.horizon, 1, MAX_HORIZON)
        check_range("margin", self.margin, 0, MAX_NUMBER)

    @classmethod
    def checked(cls, **values: Any) -> "Search":
        """A `Search` of unchecked values; raises ConfigError for the first out of range."""
        # a number that is not finite is refused by its name, as in any config
        made: Search = from_dict(cls, values, "decoder", any_number=True)
        return made


class Fusion:
    """The score of a text's words, in nats, which is added to the acoustic score.

    A complete word w after h adds alpha · ln P(w | h) + length_bonus, and alpha · ln 10 · unk_score
    if it is in neither the model nor the hotwords. A complete hotword phrase adds its boost. While
    a word grows, it gets the share of the boost that its letters have, and unk_score as soon as no
    known word begins like it. Both are corrected when the word is complete.
    """

    def __init__(
        self,
        lm: LanguageModel | None,
        search: Search,
        boosts: Mapping[str, float],
    ) -> None:
        self._made_with = lm, search, boosts
        self.lm, self.alpha, length_bonus = lm, search.alpha * LN10, search.length_bonus
        self.length_bonus = length_bonus
        self.unknown = self.alpha * search.unk_score if lm else 0.0
        self.boosts = dict(boosts)
        self.hot = frozenset(word for phrase in boosts for word in phrase.split())
        self.sorted_words = sorted({*lm.words, *self.hot}) if lm and lm.words else []
        # of phrases with the same beginning, the one with the largest share of its boost
        self.partial: dict[str, float] = {}
        for phrase, boost in boosts.items():
            for end in range(1, len(phrase) + 1):
                share = boost * end / len(phrase)
                self.partial[phrase[:end]] = max(share, self.partial.get(phrase[:end], 0.0))
        self.longest = max((len(phrase.split()) for phrase in boosts), default=1)
        self.memory = max(lm.order - 1 if lm else 0, self.longest - 1)
        self.idle = not (lm or boosts or length_bonus)
        self.largest_gain = max(0.0, length_bonus) + (self.longest + 1) * max(
            (0.0, *boosts.values())
        )
        """No label adds more."""
        self.gain = lru_cache(REMEMBERED)(self._gain)
        self.extend = lru_cache(REMEMBERED)(self._extend)
        self.growing = lru_cache(REMEMBERED)(self._growing)
        self.may_be_known = lru_cache(REMEMBERED)(self._may_be_known)

    def __reduce__(self) -> tuple[Any, ...]:
        # the caches of scores are not pickled
        return Fusion, self._made_with

    @property
    def start(self) -> Context:
        """Before the first letter."""
        return ((BEGIN,) if self.memory else ()), ""

    def end_gain(self, context: Context) -> float:
        """The score that the end of the text adds."""
        words, _ = self.extend(context, " ")
        end = self.alpha * self.lm.score(words, END) if self.lm else 0.0
        return self._whole(context) - self.growing(context) + end

    def _extend(self, context: Context, label: str) -> Context:
        words, word = context
        if self.idle:
            return context
        if label != " ":
            return words, word + label
        if word:
            words = (*words, word)
        return words[max(0, len(words) - self.memory) :], ""

    def _gain(self, context: Context, label: str) -> float:
        """The score that one more label adds."""
        gain = self.growing(self.extend(context, label)) - self.growing(context)
        return gain + self._whole(context) if label == " " else gain

    def _whole(self, context: Context) -> float:
        """The score of the context's word when it is complete."""
        words, word = context
        if not word:
            return 0.0
        score = self.length_bonus
        if self.lm:
            score += self.alpha * self.lm.score(words, word)
            if word not in self.lm and word not in self.hot:
                score += self.unknown
        return score + sum(self.boosts.get(phrase, 0.0) for phrase in self._phrases(context))

    def _growing(self, context: Context) -> float:
        """The provisional score of the context's word while it grows."""
        promised = max((self.partial.get(p, 0.0) for p in self._phrases(context)), default=0.0)
        return promised + (0.0 if self.may_be_known(context[1]) else self.unknown)

    def _phrases(self, context: Context) -> list[str]:
        """The word in progress, alone and after one, two … of the words before it."""
        if not self.boosts:
            return []
        words, word = context
        longest = min(self.longest - 1, len(words))
        return [" ".join((*words[len(words) - n :], word)) for n in range(longest + 1)]

    def _may_be_known(self, beginning: str) -> bool:
        if not self.sorted_words:
            return True
        i = bisect_left(self.sorted_words, beginning)
        return i < len(self.sorted_words) and self.sorted_words[i].startswith(beginning)


def load_lm(path: str | os.PathLike[str], labels: Sequence[str]) -> LanguageModel:
    """The language model in an ARPA file, or in a binary file of KenLM (.bin, .binary, .klm).

    An ARPA file's words take the labels' case and form. Gives a LanguageModelWarning with the share
    of the words that the labels can spell, where it is small. Raises ConfigError where it is zero.
    A file is read again only if it has changed.
    """
    try:
        file = os.stat(path)
    except OSError as error:
        raise ConfigError(f"cannot open language model {path}: {error.strerror}") from error
    return _load(
        Path(path),
        file.st_mtime_ns,
        file.st_size,
        Spelling.of(labels),
        frozenset("".join(labels)),
    )


@lru_cache(MODELS_KEPT)
def _load(
    path: Path, mtime_ns: int, size: int, spelling: Spelling, letters: frozenset[str]
) -> LanguageModel:
    if path.suffix in KENLM_SUFFIXES:
        return KenLM(path)
    model = read_arpa(path, spelling)
    check_words(path, model.words, letters)
    return model


def check_words(path: Path, words: Collection[str], letters: frozenset[str]) -> None:
    """Warns where the labels cannot spell many words; raises ConfigError where they spell none."""
    strange = [word for word in words if not letters.issuperset(word)]
    if words and len(strange) == len(words):
        raise ConfigError(
            f"{path}: the labels spell none of its {len(words):,} words, such as {min(strange)!r}; "
            "give a language model of the language and spelling of the labels"
        )
    share = 1 - len(strange) / max(1, len(words))
    if share < FEW:
        warnings.warn(
            f"{path}: the labels spell {share:.0%} of its {len(words):,} words, and not "
            f"{min(strange)!r}; give a language model of the labels' language and spelling",
            LanguageModelWarning,
            stacklevel=2,
        )


def read_hotwords(
    hotwords: Hotwords, boost: float, labels: Sequence[str], normalization: str = "none"
) -> dict[str, float]:
    """The boost of each phrase, in nats.

    `hotwords` is a file, a sequence of phrases, or a mapping of phrases to boosts. A file has a
    phrase in each line and, after a tab, its boost if that is not `boost`. Phrases are normalised
    with `normalization` like transcripts, and take the labels' case. Raises ConfigError for a
    phrase that the labels cannot spell.
    """
    if isinstance(hotwords, Mapping):
        rows = [(repr(phrase), phrase, value) for phrase, value in hotwords.items()]
    elif isinstance(hotwords, str | os.PathLike):
        rows = _read_file(Path(hotwords), boost)
    else:
        rows = [(repr(phrase), phrase, boost) for phrase in hotwords]
    if len(rows) > MAX_HOTWORDS:
        raise ConfigError(f"{len(rows):,} hotwords; give at most {MAX_HOTWORDS:,}")
    spelled = Spelling.of(labels)
    boosts: dict[str, float] = {}
    for where, given, value in rows:
        try:
            phrase = normalize(spelled(" ".join(given.split())), normalization, labels)
        except ManifestError as error:
            raise ConfigError(f"hotword {where}: {error}") from error
        if not 0 < len(phrase) <= MAX_HOTWORD_CHARACTERS:
            raise ConfigError(
                f"hotword {where}: {len(phrase)} letters; give 1 to {MAX_HOTWORD_CHARACTERS}"
            )
        boosts[phrase] = _boost(where, value)
    return boosts


def _boost(where: str, value: Any) -> float:
    try:
        boost = float(value)
    except (TypeError, ValueError, OverflowError):
        boost = math.nan
    if not abs(boost) <= MAX_NUMBER:
        raise ConfigError(f"hotword {where}: {value!r} is no boost; give a number of nats")
    return boost


def _read_file(path: Path, boost: float) -> list[tuple[str, str, Any]]:
    rows: list[tuple[str, str, Any]] = []
    for number, line in enumerate(lines_of(path), start=1):
        phrase, tab, value = line.partition("\t")
        if line.strip():
            rows.append((f"{path}:{number}", phrase, value if tab else boost))
    return rows
