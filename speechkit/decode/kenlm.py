"""KenLM's binary language models, where the module `kenlm` is installed."""

import os
from collections.abc import Sequence

from speechkit.decode.ngram import BEGIN
from speechkit.errors import MissingExtraError, SpeechkitError


class KenLM:
    """A binary file of KenLM with lower-case or upper-case words; it cannot list its vocabulary.

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
        return self._stored(word) in self.model

    def _stored(self, word: str) -> str:
        """The word in the case of the file: unchanged, upper or lower case."""
        return next((w for w in (word, word.upper(), word.lower()) if w in self.model), word)

    def score(self, history: Sequence[str], word: str) -> float:
        """log10 P(word | history)."""
        state = self._new_state()
        if history[:1] == (BEGIN,):
            self.model.BeginSentenceWrite(state)
            history = history[1:]
        else:
            self.model.NullContextWrite(state)
        for one in (*history, word):
            after = self._new_state()
            score: float = self.model.BaseScore(state, self._stored(one), after)
            state = after
        return score
