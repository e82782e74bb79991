"""From CTC scores to text: greedy reading, beam search, language models, ends of utterances."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor


class Decoder(Protocol):
    """What a component of the kind decoder makes; pure, with a state of nested plain tuples."""

    labels: tuple[str, ...]

    def init(self) -> Any:
        """The state before the first frame."""
        ...

    def step(self, state: Any, log_probs: Tensor) -> tuple[Any, str]:
        """The next state and the text so far, after valid frames log_probs `[T, V + 1]`."""
        ...

    def finish(self, state: Any) -> str:
        """The text if it ends here."""
        ...

    def ids(self, state: Any) -> tuple[int, ...]:
        """The label ids of that text."""
        ...

    def stable(self, state: Any) -> str:
        """The beginning of the text that no further frame can change."""
        ...

    def restore(self, values: Sequence[Any]) -> Any:
        """The state from its nested lists, as JSON stores it."""
        ...
