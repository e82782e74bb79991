"""CTC prefix beam search over one chunk after another, with scores of words added."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from speechkit.decode.fusion import (
    Context,
    Fusion,
    Hotwords,
    Search,
    load_lm,
    read_hotwords,
)
from speechkit.errors import SpeechkitError
from speechkit.text import decode

Array = np.ndarray[Any, np.dtype[Any]]

BLOCK_FRAMES = 64
"""The number of frames after which stable text is moved out of the hypotheses, for speed."""
ROOT_KEY = 1
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


class Hypothesis(NamedTuple):
    """A prefix that is still possible, and its log probabilities.

    `tail` are its label ids after the state's `stable` ones. `blank` and `label` are the log
    probabilities of all paths that end in a blank and in its last label. `bonus` is the score of
    its words. `key` identifies the text; `parent` is the key of the text without its last label.
    """

    tail: tuple[int, ...]
    blank: float
    label: float
    bonus: float
    key: int
    parent: int
    context: Context


class BeamState(NamedTuple):
    """The ids that all hypotheses begin with, and the hypotheses, best first."""

    stable: tuple[int, ...]
    beams: tuple[Hypothesis, ...]


class BeamCTC:
    """The most probable texts, summed over all CTC paths, with the scores of their words.

    Keeps the `beam` best prefixes by ln P(prefix | frames) + its words' score: alpha · ln P(words)
    + length_bonus · words + boosts (`speechkit.decode.fusion`). At each frame labels and blanks
    below `min_log_prob` count as impossible, so that a frame that is almost certainly blank costs
    little. Prefixes more than `margin` below the best are dropped. So are those that differ from
    the best more than `horizon` labels back; the text before that is stable. With beam, margin and
    horizon large and min_log_prob far below zero the sum is exact.

    `lm` is an ARPA file (.gz too) or a binary file of KenLM, and `alpha` is its weight. Its words
    take the labels' case. `length_bonus`, per word, and `hotword_boost` are in nats, `unk_score` in
    log10. `hotwords` is a file of phrases, or a sequence of them. They are normalised with
    `normalization` like transcripts. Raises ConfigError for a number out of range.
    Source: Graves & Jaitly, ICML 2014; Hannun et al., arXiv:1408.2873.
    """

    def __init__(
        self,
        labels: Sequence[str],
        beam: int = 16,
        lm: str | os.PathLike[str] | None = None,
        alpha: float = 0.5,
        length_bonus: float = 0.0,
        unk_score: float = -3.0,
        hotwords: Hotwords = (),
        hotword_boost: float = 5.0,
        min_log_prob: float = -7.0,
        margin: float = 16.0,
        horizon: int = 50,
        normalization: str = "none",
    ) -> None:
        search = Search.checked(
            beam=beam,
            alpha=alpha,
            length_bonus=length_bonus,
            unk_score=unk_score,
            hotword_boost=hotword_boost,
            min_log_prob=min_log_prob,
            margin=margin,
            horizon=horizon,
        )
        self.labels = tuple(labels)
        self.blank = len(self.labels)
        self.beam, self.min_log_prob = search.beam, search.min_log_prob
        self.margin, self.horizon = search.margin, search.horizon
        self.fusion = Fusion(
            load_lm(lm, labels) if lm else None,
            search,
            read_hotwords(hotwords, search.hotword_boost, labels, normalization),
        )

    def init(self) -> BeamState:
        root = Hypothesis((), 0.0, -np.inf, 0.0, ROOT_KEY, 0, self.fusion.start)
        return BeamState((), (root,))

    def step(self, state: BeamState, log_probs: Array) -> tuple[BeamState, str]:
        """The next state and the best text so far, after valid frames log_probs `[T, V + 1]`."""
        scores = np.asarray(log_probs, np.float64)
        if scores.shape[1] != self.blank + 1 or np.isnan(scores).any():
            raise SpeechkitError(
                f"scores {list(scores.shape)} with {np.isnan(scores).sum()} NaN; "
                f"expected [T, {self.blank + 1}], labels and blank, without NaN"
            )
        for first in range(0, len(scores), BLOCK_FRAMES):
            live = _Live.of(state, self.blank)
            for row in scores[first : first + BLOCK_FRAMES]:
                live = self._advance(live, row)
            state = live.state(state.stable)
        return state, decode((*state.stable, *state.beams[0].tail), self.labels)

    def finish(self, state: BeamState) -> str:
        """The whole text."""
        return decode(self.ids(state), self.labels)

    def ids(self, state: BeamState) -> tuple[int, ...]:
        """The label ids of the best text if it ends here."""
        best = max(state.beams, key=self._final_score)
        return state.stable + best.tail

    def stable(self, state: BeamState) -> str:
        """The beginning of the text that no further frame can change."""
        return decode(state.stable, self.labels)

    def restore(self, values: Sequence[Any]) -> BeamState:
        """The state from its nested lists, as JSON stores it; ValueError for other data."""
        # only restoring a state needs pydantic, which is slow to import
        from pydantic import TypeAdapter

        state: BeamState = TypeAdapter(BeamState).validate_python(values)
        tails = [state.stable, *(one.tail for one in state.beams)]
        if not state.beams or not all(0 <= i < self.blank for tail in tails for i in tail):
            raise ValueError(f"no beams over {self.blank} labels")
        for one in state.beams:
            if not all(0 <= key < 2**64 for key in (one.key, one.parent)):
                raise ValueError("keys have 64 bits")
            # a NaN makes each comparison false
            either = max(one.blank, one.label)
            if not (np.isfinite(one.bonus) and one.blank + one.label < np.inf and either > -np.inf):
                raise ValueError("a hypothesis that is not possible")
        return state

    def _final_score(self, hypothesis: Hypothesis) -> float:
        total = np.logaddexp(hypothesis.blank, hypothesis.label)
        return float(total + hypothesis.bonus + self.fusion.end_gain(hypothesis.context))

    def _advance(self, live: "_Live", scores: Array) -> "_Live":
        """The hypotheses after one frame, scores `[V + 1]`."""
        V = self.blank
        scores = np.where(scores < min(self.min_log_prob, scores.max()), -np.inf, scores)
        total = np.logaddexp(live.blank, live.label)
        stay_blank = total + scores[V]
        if scores[:V].max() == -np.inf:
            # only the blank is left, so no hypothesis grows and their order stays
            return replace(live, blank=stay_blank, label=np.full(len(total), -np.inf))
        stay_label = live.label + scores[live.last]
        grown = total[:, None] + scores[:V]
        # a repeated label counts as a new one only after a blank
        inside = np.flatnonzero(live.last < V)
        again = live.last[inside]
        grown[inside, again] = live.blank[inside] + scores[again]
        # a prefix that grows into an existing hypothesis is added to that one
        child, parent = np.nonzero(live.parent[:, None] == live.key)
        new = live.last[child]
        stay_label[child] = np.logaddexp(stay_label[child], grown[parent, new])
        grown[parent, new] = -np.inf

        stay = np.logaddexp(stay_blank, stay_label) + live.bonus
        ahead = grown + live.bonus[:, None]
        limit = max(stay.max(), ahead.max()) - self.margin
        if len(stay) == self.beam:
            # lower ones cannot get into the beam
            limit = max(limit, stay.min() - self.fusion.largest_gain)
        sources, labels = np.nonzero((ahead >= limit) & (ahead > -np.inf))
        gain, names, contexts = self.fusion.gain, self.labels, live.contexts
        gains = [
            gain(contexts[source], names[label])
            for source, label in zip(sources.tolist(), labels.tolist(), strict=True)
        ]
        bonus = np.concatenate([live.bonus, live.bonus[sources] + gains])
        label = np.concatenate([stay_label, grown[sources, labels]])
        ranking = np.concatenate([stay, label[len(stay) :] + bonus[len(stay) :]])
        within = np.flatnonzero((ranking >= ranking.max() - self.margin) & (ranking > -np.inf))
        best = within[np.argsort(-ranking[within], kind="stable")][: self.beam]

        grows = best >= len(stay)
        source = np.concatenate([np.arange(len(stay)), sources])[best]
        last = np.concatenate([live.last, labels])[best]
        key = live.key[source]
        tails = [live.tails[i] for i in source.tolist()]
        contexts = [live.contexts[i] for i in source.tolist()]
        for i in np.flatnonzero(grows).tolist():
            tails[i] = (*tails[i], int(last[i]))
            contexts[i] = self.fusion.extend(contexts[i], names[last[i]])
        return _Live(
            tails=tails,
            contexts=contexts,
            last=last,
            blank=np.where(grows, -np.inf, stay_blank[source]),
            label=label[best],
            bonus=bonus[best],
            key=np.where(grows, _longer(key, last), key),
            parent=np.where(grows, key, live.parent[source]),
        ).within(self.horizon)


@dataclass(frozen=True)
class _Live:
    """The hypotheses of a `BeamState` as arrays with one value each.

    `last` are the last label ids, the blank's where there is no label.
    """

    tails: list[tuple[int, ...]]
    contexts: list[Context]
    last: Array
    blank: Array
    label: Array
    bonus: Array
    key: Array
    parent: Array

    @classmethod
    def of(cls, state: BeamState, blank: int) -> "_Live":
        before = state.stable[-1] if state.stable else blank
        tails, blanks, labels, bonuses, keys, parents, contexts = zip(*state.beams, strict=True)
        return cls(
            tails=list(tails),
            contexts=list(contexts),
            last=np.array([tail[-1] if tail else before for tail in tails]),
            blank=np.array(blanks),
            label=np.array(labels),
            bonus=np.array(bonuses),
            key=np.array(keys, dtype=np.uint64),
            parent=np.array(parents, dtype=np.uint64),
        )

    def within(self, horizon: int) -> "_Live":
        """The hypotheses that differ from the best in the last `horizon` labels at most."""
        old = self.tails[0][:-horizon]
        keep = [i for i, tail in enumerate(self.tails) if tail[: len(old)] == old]
        if len(keep) == len(self.tails):
            return self
        return _Live(
            tails=[self.tails[i] for i in keep],
            contexts=[self.contexts[i] for i in keep],
            last=self.last[keep],
            blank=self.blank[keep],
            label=self.label[keep],
            bonus=self.bonus[keep],
            key=self.key[keep],
            parent=self.parent[keep],
        )

    def state(self, stable: tuple[int, ...]) -> BeamState:
        """The state; the beginning that all hypotheses share is moved to `stable`."""
        # the prefix that the first and the last in lexicographic order share is shared by all
        first, last = min(self.tails), max(self.tails)
        same = [a == b for a, b in zip(first, last, strict=False)]
        common = same.index(False) if False in same else len(same)
        columns = (self.blank, self.label, self.bonus, self.key, self.parent)
        beams = zip(
            (tail[common:] for tail in self.tails),
            *(column.tolist() for column in columns),
            self.contexts,
            strict=True,
        )
        return BeamState(
            stable + self.tails[0][:common], tuple(Hypothesis(*values) for values in beams)
        )


def _longer(key: Array, label: Array) -> Array:
    """The keys of texts with one more label: 64-bit hashes, so that equal ones are not expected."""
    mixed: Array = (key ^ (key >> np.uint64(29))) * MULTIPLIER + label.astype(np.uint64)
    mixed ^= mixed >> np.uint64(32)
    return mixed
