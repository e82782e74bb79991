"""KenLM's binary language models, where the module `kenlm` is installed."""

import os
from collections.abc import Sequence

from speechkit.decode.ngram import BEGIN
from speechkit.errors import MissingExtraError, SpeechkitError


class KenLM:
    """A binary file of KenLM's; it cannot list its words.

    Source: Heafield, WMT 2011.
    """

    words: tuple[str, ...] = ()

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            import kenlm
        except ImportError as error:
            raise MissingExtraError("kenlm", "kenlm") from error
        try:
            self.model, self._new_state = kenlm.Model(os.fspath(path)), kenlm.State
        except OSError as error:
            raise SpeechkitError(f"{path} is no language model of KenLM's: {error}") from error
        self.order = self.model.order

    def __contains__(self, word: str) -> bool:
        return word in self.model

    def score(self, history: Sequence[str], word: str) -> float:
        """log10 P(word | history)."""
        state = self._new_state()
        if history[:1] == (BEGIN,):
            self.model.BeginSentenceWrite(state)
            history = history[1:]
        else:
            self.model.NullContextWrite(state)
        for said in (*history, word):
            after = self._new_state()
            score: float = self.model.BaseScore(state, said, after)
            state = after
        return score
