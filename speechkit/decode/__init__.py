"""From CTC scores to text: greedy decoding, beam search and language models."""

import inspect
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from speechkit.component import Spec
from speechkit.errors import ConfigError
from speechkit.plugins import registry

METHODS = ("init", "step", "finish", "ids", "stable", "restore")
"""The methods that a decoder must have."""


class Decoder(Protocol):
    """The interface of decoders: pure functions on a state of nested plain tuples."""

    labels: tuple[str, ...]

    def init(self) -> Any:
        """The state before the first frame."""
        ...

    def step(self, state: Any, log_probs: NDArray[np.float32]) -> tuple[Any, str]:
        """The next state and the text so far, after valid frames; `log_probs` is a numpy array
        `[T, V + 1]`."""
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


def decoder_of(
    decoder: Decoder | Spec | str, labels: Sequence[str], normalization: str = "none"
) -> Decoder:
    """The decoder with a name, or the one given, for a model's labels.

    A factory with a parameter `normalization` is given the model's, so that it normalises hotwords
    like transcripts. Raises ConfigError for a decoder with other labels or without a method.
    """
    made: Any = decoder
    if isinstance(decoder, Spec | str):
        factory = registry().find("decoder", Spec.parse(decoder).name).factory()
        takes = "normalization" in inspect.signature(factory).parameters
        given = {"normalization": normalization} if takes else {}
        made = registry().build("decoder", decoder, tuple(labels), **given)
    if missing := [name for name in METHODS if not callable(getattr(made, name, None))]:
        raise ConfigError(
            f"decoder {type(made).__name__} lacks {', '.join(missing)}; "
            f"a decoder has {', '.join(METHODS)}"
        )
    own = tuple(getattr(made, "labels", ()))
    if own != tuple(labels):
        raise ConfigError(
            f"a decoder of {len(own)} labels, which are not the {len(labels)} of "
            "the model; make it with model.labels"
        )
    found: Decoder = made
    return found
