"""Concatenation of utterances with their texts, the long lines of arXiv:2205.14879."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Generator

from speechkit.data import Utterance
from speechkit.errors import ComponentError


@dataclass(frozen=True)
class Concat:
    """An utterance and another one after it, their texts joined by a space.

    With `probability` another utterance is drawn, each with the same chance. The utterance stays
    alone if both together last longer than `max_duration_s`, the longest that the run trains on,
    or if one of them has no text, label or segments.
    """

    max_duration_s: float
    probability: float = 0.3

    domain: ClassVar[Literal["utterances"]] = "utterances"

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ComponentError(
                f"augmentation concat: probability={self.probability:g}; give a number from 0 to 1"
            )

    def __call__(
        self, index: int, utterances: Sequence[Utterance], generator: Generator
    ) -> list[int]:
        if torch.rand((), generator=generator) >= self.probability or len(utterances) < 2:
            return [index]
        other = int(torch.randint(len(utterances) - 1, (), generator=generator))
        # any but itself
        other += other >= index
        both = utterances[index], utterances[other]
        if sum(utterance.duration_s for utterance in both) > self.max_duration_s:
            return [index]
        return [index] if any(utterance.unlabeled for utterance in both) else [index, other]
