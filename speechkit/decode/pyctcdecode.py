"""The beam search of the package pyctcdecode, as a `Decoder`."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from speechkit.decode.fusion import (
    KENLM_SUFFIXES,
    Hotwords,
    Search,
    check_words,
    read_hotwords,
)
from speechkit.decode.ngram import read_arpa
from speechkit.errors import ConfigError, MissingExtraError
from speechkit.text import decode, encode


class Frames(NamedTuple):
    """All scores so far, since the package decodes only whole utterances."""

    scores: tuple[tuple[float, ...], ...]


class PyCTCDecode:
    """pyctcdecode's `BeamSearchDecoderCTC`; each step decodes all frames so far again.

    The parameters are those of `BeamCTC`, but all hotwords have one boost. `lm` needs the module
    kenlm. Source: https://github.com/kensho-technologies/pyctcdecode.
    """

    def __init__(
        self,
        labels: Sequence[str],
        beam: int = 100,
        lm: str | os.PathLike[str] | None = None,
        alpha: float = 0.5,
        length_bonus: float = 1.5,
        unk_score: float = -10.0,
        hotwords: Hotwords = (),
        hotword_boost: float = 10.0,
        min_log_prob: float = -5.0,
        margin: float = 10.0,
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
        )
        try:
            import pyctcdecode
        except ImportError as error:
            raise MissingExtraError("pyctcdecode", "pyctcdecode") from error
        if lm:
            try:
                import kenlm  # noqa: F401
            except ImportError as error:
                raise MissingExtraError("kenlm", "kenlm") from error
            if Path(lm).suffix not in KENLM_SUFFIXES:
                # the package does not change the case of the words
                check_words(Path(lm), read_arpa(lm).words, frozenset("".join(labels)))
        boosts = read_hotwords(hotwords, search.hotword_boost, labels, normalization)
        if set(boosts.values()) - {search.hotword_boost}:
            raise ConfigError("pyctcdecode has one boost for all hotwords; give hotword_boost")
        self.labels = tuple(labels)
        self.decoder = pyctcdecode.build_ctcdecoder(
            [*labels, ""],
            os.fspath(lm) if lm else None,
            alpha=search.alpha,
            beta=search.length_bonus,
            unk_score_offset=search.unk_score,
        )
        self.options = {
            "beam_width": search.beam,
            "beam_prune_logp": -search.margin,
            "token_min_logp": search.min_log_prob,
            "hotwords": list(boosts),
            "hotword_weight": search.hotword_boost,
        }

    def init(self) -> Frames:
        return Frames(())

    def step(self, state: Frames, log_probs: NDArray[np.float32]) -> tuple[Frames, str]:
        """The next state and the best text so far, after valid frames log_probs `[T, V + 1]`."""
        state = Frames((*state.scores, *map(tuple, log_probs.tolist())))
        return state, self.finish(state)

    def finish(self, state: Frames) -> str:
        """The whole text."""
        return decode(self.ids(state), self.labels)

    def ids(self, state: Frames) -> tuple[int, ...]:
        """The label ids of the best text if it ends here."""
        if not state.scores:
            return ()
        text = self.decoder.decode(np.array(state.scores, dtype=np.float32), **self.options)
        return tuple(encode(text, self.labels).tolist())

    def stable(self, state: Frames) -> str:
        """Always empty: the package does not tell which text no further frame can change."""
        return ""

    def restore(self, values: Sequence[Any]) -> Frames:
        """The state from its nested lists, as JSON stores it."""
        (scores,) = values
        return Frames(tuple(map(tuple, scores)))
