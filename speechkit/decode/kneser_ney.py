"""Estimates n-gram models from text by interpolated modified Kneser-Ney smoothing."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from itertools import pairwise

from speechkit.config import check_range
from speechkit.decode.ngram import BEGIN, END, IMPOSSIBLE, UNKNOWN, NGram
from speechkit.errors import SpeechkitError
from speechkit.limits import MAX_ORDER

FEW = (0.5, 1.0, 1.5)
"""The discounts where the text is too small to estimate them (as in KenLM's lmplz)."""

Gram = tuple[str, ...]


def estimate(lines: Iterable[str], order: int = 3) -> NGram:
    """The model of order `order` of sentences, one a line.

    P(w | h) = (c(h w) − D(c(h w))) / c(h) + γ(h) · P(w | h without its first word). D is one of the
    discounts D1, D2 and D3+, by the count. γ(h) is the probability that the discounts free, so that
    the sum over the words, `</s>` and `<unk>` is one. Below the highest order, c is the number of
    different words that come before. Unigrams are interpolated with the uniform distribution.
    Source: Chen & Goodman, Computer Speech & Language 13, 1999.
    """
    check_range("order", order, 1, MAX_ORDER)
    counts = _adjusted(_counts(lines, order))
    del counts[0][(BEGIN,)]
    words = len(counts[0])
    uniform = 1 / (words + 1)  # over `<unk>` too
    probabilities: dict[Gram, float] = {}
    backoffs: dict[Gram, float] = {}
    for grams in counts:
        discounts = _discounts(grams)
        total, freed = _by_history(grams, discounts)
        gamma = {history: freed[history] / total[history] for history in total}
        for gram, count in grams.items():
            history = gram[:-1]
            own = (count - discounts[min(count, 3) - 1]) / total[history]
            lower = probabilities[gram[1:]] if history else uniform
            probabilities[gram] = own + gamma[history] * lower
        if () in gamma:
            probabilities[(UNKNOWN,)] = gamma[()] * uniform
        else:
            backoffs.update(gamma)
    log_probs = {" ".join(gram): math.log10(p) for gram, p in probabilities.items()}
    return NGram(
        order,
        {BEGIN: IMPOSSIBLE, **log_probs},
        {" ".join(history): math.log10(gamma) for history, gamma in backoffs.items()},
    )


def _counts(lines: Iterable[str], order: int) -> list[Counter[Gram]]:
    """How often each n-gram occurs, for n from 1 to `order`."""
    counts: list[Counter[Gram]] = [Counter() for _ in range(order)]
    for line in lines:
        words = line.split()
        if not words:
            continue
        if reserved := {BEGIN, END, UNKNOWN} & set(words):
            raise SpeechkitError(f"text {line!r} has {min(reserved)}, which the model itself adds")
        sentence = (BEGIN, *words, END)
        for n, found in enumerate(counts, start=1):
            found.update(zip(*(sentence[i:] for i in range(n)), strict=False))
    if not counts[0]:
        raise SpeechkitError("no words to estimate a language model from; give lines of text")
    return counts


def _adjusted(counts: list[Counter[Gram]]) -> list[Counter[Gram]]:
    """Counts of different words before each n-gram, below the highest order; none before `<s>`."""
    adjusted = []
    for grams, longer in pairwise(counts):
        before = Counter(gram[1:] for gram in longer)
        adjusted.append(Counter({gram: before[gram] or count for gram, count in grams.items()}))
    return [*adjusted, counts[-1]]


def _discounts(grams: Mapping[Gram, int]) -> tuple[float, float, float]:
    """D1, D2 and D3+ from the numbers of n-grams that occur once, twice, three and four times."""
    n1, n2, n3, n4 = (sum(count == times for count in grams.values()) for times in range(1, 5))
    if 0 in (n1, n2, n3, n4):
        return FEW
    y = n1 / (n1 + 2 * n2)
    found = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    sound = all(0 < discount < times for times, discount in enumerate(found, start=1))
    return found if sound else FEW


def _by_history(
    grams: Mapping[Gram, int], discounts: tuple[float, float, float]
) -> tuple[dict[Gram, int], dict[Gram, float]]:
    """The sum of counts, and of discounts, after each history."""
    total: dict[Gram, int] = defaultdict(int)
    freed: dict[Gram, float] = defaultdict(float)
    for gram, count in grams.items():
        total[gram[:-1]] += count
        freed[gram[:-1]] += discounts[min(count, 3) - 1]
    return total, freed
