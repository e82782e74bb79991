"""How good outputs are: error rates, accuracy and area under the curve, all as fractions."""

from collections.abc import Sequence, Sized

import jiwer
import torch
from torch import Tensor

from speechkit.errors import SpeechkitError


def wer(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Word error rate of a corpus: (substitutions + deletions + insertions) / reference words.

    It may exceed 1. Words said to an empty reference are insertions; if all references are empty,
    the divisor is 1.
    """
    _check_pairs(references, hypotheses)
    return _error_rate(jiwer.process_words(list(references), list(hypotheses)))


def cer(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Character error rate of a corpus: as `wer`, with characters (inner spaces too) for words."""
    _check_pairs(references, hypotheses)
    return _error_rate(jiwer.process_characters(list(references), list(hypotheses)))


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
    return above / (positives * negatives)


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
    """How long after each edge the first decision came, in seconds; edges without one are left out.

    A decision belongs to an edge from `early_s` before it, a negative delay, to `late_s` after.
    """
    found = []
    for edge_s in edges_s:
        after = [d - edge_s for d in decided_s if -early_s <= d - edge_s <= late_s]
        found += [min(after)] if after else []
    return found


def _error_rate(output: jiwer.WordOutput | jiwer.CharacterOutput) -> float:
    units = output.hits + output.substitutions + output.deletions
    return (output.substitutions + output.deletions + output.insertions) / max(units, 1)


def _check_pairs(truth: Sized, guess: Sized) -> None:
    if len(truth) != len(guess):
        raise SpeechkitError(f"{len(truth)} references, {len(guess)} outputs; give one for each")
    if not len(truth):
        raise SpeechkitError("nothing to score; give at least one reference and its output")
