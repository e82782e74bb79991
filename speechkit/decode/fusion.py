"""What words add to the scores of letters: a language model, hotwords and a bonus for length."""

import math
import os
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from speechkit.decode.kenlm import KenLM
from speechkit.decode.ngram import BEGIN, END, LanguageModel, read_arpa
from speechkit.errors import ConfigError
from speechkit.text import lines_of

KENLM_SUFFIXES = (".bin", ".binary", ".klm")
LN10 = math.log(10)
REMEMBERED = 2**17
"""How many scores of words are kept."""

Context = tuple[tuple[str, ...], str]
"""The last whole words that matter, and the word that has begun."""
Hotwords = str | os.PathLike[str] | Sequence[str] | Mapping[str, float]


class Fusion:
    """Scores of a text beside the sound's, in nats, as a function of its words.

    A whole word w after h gives alpha · ln P(w | h) + length_bonus, and alpha · ln 10 · unk_score
    if it is in neither the model nor the hotwords; a hotword phrase that is complete gives its
    boost. While a word grows, the boost counts by the share of its letters and unk_score as soon
    as no known word begins so; both are taken back as the word turns out.
    """

    def __init__(
        self,
        lm: LanguageModel | None,
        alpha: float,
        length_bonus: float,
        unk_score: float,
        boosts: Mapping[str, float],
    ) -> None:
        self._made_with = lm, alpha, length_bonus, unk_score, boosts
        self.lm, self.alpha, self.length_bonus = lm, alpha * LN10, length_bonus
        self.unknown = self.alpha * unk_score if lm else 0.0
        self.boosts = dict(boosts)
        self.hot = frozenset(word for phrase in boosts for word in phrase.split())
        self.sorted_words = sorted({*lm.words, *self.hot}) if lm and lm.words else []
        # of phrases that begin alike the one that promises most
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
        # what is remembered of scores is not pickled
        return Fusion, self._made_with

    @property
    def start(self) -> Context:
        """Before the first letter."""
        return ((BEGIN,) if self.memory else ()), ""

    def end_gain(self, context: Context) -> float:
        """What the end of the text adds."""
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
        """What one more label adds."""
        gain = self.growing(self.extend(context, label)) - self.growing(context)
        return gain + self._whole(context) if label == " " else gain

    def _whole(self, context: Context) -> float:
        """What the context's word gives when it is whole."""
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
        """What the context's word promises while it grows."""
        promised = max((self.partial.get(p, 0.0) for p in self._phrases(context)), default=0.0)
        return promised + (0.0 if self.may_be_known(context[1]) else self.unknown)

    def _phrases(self, context: Context) -> list[str]:
        """The word that has begun, alone and after one, two … of the words before it."""
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


def load_lm(path: str | os.PathLike[str], *, lower: bool) -> LanguageModel:
    """The language model in an ARPA file, or in a binary one of KenLM's (.bin, .binary, .klm)."""
    if Path(path).suffix in KENLM_SUFFIXES:
        return KenLM(path)
    return read_arpa(path, lower=lower)


def read_hotwords(hotwords: Hotwords, boost: float, labels: Sequence[str]) -> dict[str, float]:
    """The boost of each phrase, in nats.

    `hotwords` is a file with a phrase a line, and after a tab its boost if it is not `boost`; or
    phrases, or phrases with boosts. They become lower case where the labels are. Raises
    ConfigError for what the labels cannot spell.
    """
    if isinstance(hotwords, Mapping):
        pairs = [(phrase, phrase, float(value)) for phrase, value in hotwords.items()]
    elif isinstance(hotwords, str | os.PathLike):
        pairs = _read_file(Path(hotwords), boost)
    else:
        pairs = [(phrase, phrase, boost) for phrase in hotwords]
    boosts: dict[str, float] = {}
    for where, given, value in pairs:
        phrase = " ".join(given.split())
        phrase = phrase.lower() if are_lower(labels) else phrase
        unknown = set(phrase) - set("".join(labels)) - {" "}
        if not phrase or unknown:
            what = f"has {min(unknown)!r}, which is no label" if unknown else "is empty"
            raise ConfigError(f"hotword {where!r} {what}; give words that the labels spell")
        boosts[phrase] = value
    return boosts


def are_lower(labels: Sequence[str]) -> bool:
    """Whether labels have no capital letters."""
    return all(label == label.lower() for label in labels)


def _read_file(path: Path, boost: float) -> list[tuple[str, str, float]]:
    pairs = []
    for number, line in enumerate(lines_of(path), start=1):
        phrase, tab, value = line.partition("\t")
        if not line.strip():
            continue
        try:
            pairs.append((f"{path}:{number}", phrase, float(value) if tab else boost))
        except ValueError as error:
            raise ConfigError(f"{path}:{number}: {value!r} is no boost; give a number") from error
    return pairs
