"""Metrics: error rates, accuracy, area under the ROC curve and calibration, as fractions."""

from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import NamedTuple

import jiwer
import torch
from torch import Tensor

from speechkit.errors import SpeechkitError


@dataclass(frozen=True)
class Edits:
    """The edits from references to hypotheses, counted in words or characters."""

    hits: int
    substitutions: int
    deletions: int
    insertions: int

    @property
    def units(self) -> int:
        """The words or characters of the references."""
        return self.hits + self.substitutions + self.deletions

    @property
    def rate(self) -> float:
        """(substitutions + deletions + insertions) / units, at least one unit."""
        wrong = self.substitutions + self.deletions + self.insertions
        return wrong / max(self.units, 1)


class Step(NamedTuple):
    """A step of an alignment with its words: `kind` is equal, substitute, delete or insert."""

    kind: str
    reference: tuple[str, ...]
    hypothesis: tuple[str, ...]


def wer(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Word error rate of a corpus: (substitutions + deletions + insertions) / reference words.

    It may exceed 1. Words against an empty reference are insertions; if all references are empty,
    the divisor is 1.
    """
    return word_edits(references, hypotheses).rate


def cer(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Character error rate of a corpus: as `wer`, with characters (inner spaces too) for words."""
    _check_pairs(references, hypotheses)
    return _edits(jiwer.process_characters(list(references), list(hypotheses))).rate


def word_edits(references: Sequence[str], hypotheses: Sequence[str]) -> Edits:
    """The fewest edits of words over a corpus."""
    _check_pairs(references, hypotheses)
    return _edits(jiwer.process_words(list(references), list(hypotheses)))


def alignment(reference: str, hypothesis: str) -> list[Step]:
    """The words of both, in order, with the fewest edits."""
    found = jiwer.process_words(reference, hypothesis)
    (words,), (recognized,), (steps,) = found.references, found.hypotheses, found.alignments
    return [
        Step(
            step.type,
            tuple(words[step.ref_start_idx : step.ref_end_idx]),
            tuple(recognized[step.hyp_start_idx : step.hyp_end_idx]),
        )
        for step in steps
    ]


def accuracy(targets: Tensor | Sequence[int], predictions: Tensor | Sequence[int]) -> float:
    """The fraction of `predictions` that equal their `targets`, both `[N]` class indices."""
    _check_pairs(targets, predictions)
    return (torch.as_tensor(targets) == torch.as_tensor(predictions)).double().mean().item()


def auc(labels: Tensor | Sequence[int], scores: Tensor | Sequence[float]) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties half.

    (Σ ranks of positives − P(P + 1)/2) / (P·N) with tied scores sharing their mean rank.
    Shape: labels `[n]` of 0 and 1, scores `[n]`. Hanley & McNeil, Radiology 1982.
    """
    _check_pairs(labels, scores)
    labels, scores = torch.as_tensor(labels), torch.as_tensor(scores, dtype=torch.float64)
    positive = labels == 1
    if not (positive | (labels == 0)).all():
        raise SpeechkitError(f"labels {labels.unique().tolist()}; give 0 and 1 only")
    if scores.isnan().any():
        raise SpeechkitError("a score is NaN; give numbers that can be ranked")
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        raise SpeechkitError(f"{positives} positives, {negatives} negatives; give one of each")
    _, group, sizes = scores.unique(return_inverse=True, return_counts=True)
    mean_rank = sizes.cumsum(0) - (sizes - 1) / 2
    above = mean_rank.double()[group][positive].sum().item() - positives * (positives + 1) / 2
    area: float = above / (positives * negatives)
    return area


def roc(labels: Sequence[int], scores: Sequence[float], points: int = 200) -> Tensor:
    """The false and the true positive rate, `[points + 1, 2]` at most, from (0, 0) to (1, 1).

    A point for each threshold, fewer where there are more thresholds than `points`.
    """
    _check_pairs(labels, scores)
    order = torch.as_tensor(scores, dtype=torch.float64).sort(descending=True)
    positive = torch.as_tensor(labels)[order.indices] == 1
    hits, alarms = positive.cumsum(0), (~positive).cumsum(0)
    # tied scores have one threshold
    last = torch.cat([order.values[1:] != order.values[:-1], torch.tensor([True])])
    rates = torch.stack([alarms / alarms[-1].clamp(min=1), hits / hits[-1].clamp(min=1)], 1)[last]
    if len(rates) > points:
        rates = rates[torch.linspace(0, len(rates) - 1, points).long()]
    return torch.cat([torch.zeros(1, 2), rates])


def confusion(targets: Sequence[int], predictions: Sequence[int], classes: int) -> Tensor:
    """Counts of predictions (columns) for each class (rows), `[classes, classes]`."""
    _check_pairs(targets, predictions)
    pairs = torch.as_tensor(targets) * classes + torch.as_tensor(predictions)
    return torch.bincount(pairs, minlength=classes**2).reshape(classes, classes)


class Bin(NamedTuple):
    """A bin of scores: their number, their mean, and the share of correct ones."""

    size: int
    score: float
    right: float


def reliability(scores: Sequence[float], right: Sequence[bool], bins: int = 10) -> list[Bin]:
    """The occupied ones of `bins` equal intervals of scores from 0 to 1."""
    _check_pairs(scores, right)
    p, hits = torch.as_tensor(scores, dtype=torch.float64), torch.as_tensor(right).double()
    index = (p * bins).long().clamp(max=bins - 1)
    inside = [index == i for i in range(bins) if (index == i).any()]
    return [Bin(int(b.sum()), p[b].mean().item(), hits[b].mean().item()) for b in inside]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected: Σ size · |score − right| / Σ size. Source: Naeini et al., AAAI 2015."""
    return sum(b.size * abs(b.score - b.right) for b in bins) / sum(b.size for b in bins)


def f1(labels: Tensor, decisions: Tensor) -> float:
    """2·hits / (2·hits + misses + false alarms) of booleans `[n]`; 1 where there is nothing."""
    _check_pairs(labels, decisions)
    wrong = int((labels != decisions).sum())
    hits = int((labels & decisions).sum())
    return 2 * hits / (2 * hits + wrong) if hits or wrong else 1.0


def delays_s(
    edges_s: Sequence[float],
    decided_s: Sequence[float],
    early_s: float = 0.2,
    late_s: float = 1.0,
) -> list[float]:
    """The delay of the first decision after each edge, in seconds; edges without one are left out.

    A decision belongs to an edge from `early_s` before it, a negative delay, to `late_s` after.
    """
    found = []
    for edge_s in edges_s:
        after = [d - edge_s for d in decided_s if -early_s <= d - edge_s <= late_s]
        found += [min(after)] if after else []
    return found


def _edits(output: jiwer.WordOutput | jiwer.CharacterOutput) -> Edits:
    return Edits(output.hits, output.substitutions, output.deletions, output.insertions)


def _check_pairs(truth: Sized, guess: Sized) -> None:
    if len(truth) != len(guess):
        raise SpeechkitError(f"{len(truth)} references, {len(guess)} outputs; give one for each")
    if not len(truth):
        raise SpeechkitError("nothing to score; give at least one reference and its output")
