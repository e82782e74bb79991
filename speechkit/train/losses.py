"""Losses: each call returns one loss per utterance, and the training loop averages them.

`loss(scores, lengths, targets, target_lengths)` → `[B]`, with lengths `[B]` in output frames.
All compute in float32 or float64, whatever the network's precision.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from speechkit.errors import TrainingError
from speechkit.tasks import IGNORED


def frames_needed(targets: Tensor, target_lengths: Tensor) -> Tensor:
    """The fewest frames in which CTC can emit targets `[B, S]`, `[B]`: labels + repetitions."""
    inside = torch.arange(targets.shape[1], device=targets.device) < target_lengths[:, None]
    repeated = (targets[:, 1:] == targets[:, :-1]) & inside[:, 1:]
    return target_lengths + repeated.sum(1)


class CTC:
    """−log P(targets | scores), summed over all alignments; 0 where there is none.

    Not divided by the target's length. Shape: scores `[B, T, V + 1]` log-probabilities with the
    blank last, targets `[B, S]` int64, target_lengths `[B]`. Graves et al., ICML 2006.
    """

    def possible(self, lengths: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
        """True for rows `[B]` with an alignment: a label needs one frame, a repeated one two."""
        return lengths >= frames_needed(targets, target_lengths)

    def __call__(
        self, scores: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor
    ) -> Tensor:
        return F.ctc_loss(
            _precise(scores).transpose(0, 1),
            targets,
            lengths,
            target_lengths,
            blank=scores.shape[2] - 1,
            reduction="none",
            zero_infinity=True,
        )


@dataclass(frozen=True)
class CrossEntropy:
    """−Σ q·log softmax(scores), q = (1 − smoothing)·one_hot(targets) + smoothing / n.

    Shape: scores `[B, n]`, targets `[B]` int64. Smoothing: Szegedy et al., arXiv:1512.00567.
    """

    smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing <= 1:
            raise ValueError(f"smoothing {self.smoothing}: give a fraction from 0 to 1")

    def __call__(
        self, scores: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor
    ) -> Tensor:
        return F.cross_entropy(
            _precise(scores), targets, reduction="none", label_smoothing=self.smoothing
        )


class FrameCrossEntropy:
    """−log softmax(scores)[target], averaged over the frames of each utterance.

    Frames beyond `lengths`, and those whose target is −100, do not count; with none left the loss
    is 0. Shape: scores `[B, T, n]`, targets `[B, T]` int64.
    """

    def __call__(
        self, scores: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor
    ) -> Tensor:
        frames = scores.shape[1]
        if targets.shape != scores.shape[:2]:
            raise TrainingError(
                f"scores of {frames} frames, targets of {targets.shape[1]}; "
                f"give one target per output frame"
            )
        valid = torch.arange(frames, device=scores.device) < lengths[:, None]
        valid = valid & (targets != IGNORED)
        # filled before the softmax, whose gradient would spread a NaN in padding
        scores = _precise(scores).masked_fill(~valid[:, :, None], 0.0)
        loss = F.cross_entropy(
            scores.transpose(1, 2),
            targets.masked_fill(~valid, IGNORED),
            reduction="none",
            ignore_index=IGNORED,
        )
        return loss.sum(dim=1) / valid.sum(dim=1).clamp(min=1)


class Nothing:
    """0 for each utterance: what a model learns, it learns from methods.

    Shape: scores of any task, `[B, ...]`. Its gradient is 0 too, so that each weight has one.
    """

    def __call__(
        self, scores: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor
    ) -> Tensor:
        # multiplied before the sum, which may overflow; padding may hold NaN
        return (0 * _precise(scores).nan_to_num()).flatten(1).sum(1)


def _precise(scores: Tensor) -> Tensor:
    return scores.to(torch.promote_types(scores.dtype, torch.float32))
