"""Flat start: each label of an utterance gets an equal share of its speech."""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from speechkit.data import Batch, UtteranceDataset
from speechkit.models import Model, Output
from speechkit.tasks import IGNORED
from speechkit.train.method import Method, check_decodes

FLOOR_DB = -100.0


@dataclass
class FlatStart(Method):
    """weight · Σ_t −log p_t(l_t), where l_t spreads an utterance's labels evenly over its speech.

    Speech lasts from the first to the last frame whose level, in decibels, is above the middle
    between the utterance's tenth percentile and its maximum; l_t is blank elsewhere. CTC alone
    predicts only blanks for thousands of steps before it finds where labels are. A few hundred
    steps with this method, on short utterances, give weights for another run to start from
    (`Run.start_from`). Source: flat start of HMMs, Young et al., The HTK Book, section 8.3.
    """

    weight: float = 1.0
    frame_samples: int = field(default=0, init=False, repr=False)

    def start(self, model: Model, dataset: UtteranceDataset) -> None:
        """Checks the task, and computes the length of a frame in samples."""
        check_decodes("flat_start", model)
        self.frame_samples = round(model.frame_s * model.sample_rate)

    def extra_loss(self, batch: Batch, output: Output) -> Tensor:
        """The losses `[B]`."""
        assert isinstance(batch.targets, Tensor)
        assert batch.target_lengths is not None
        scores = output.scores
        expected = scores.new_full(scores.shape[:2], IGNORED, dtype=torch.int64)
        rows = zip(batch.audio, output.lengths.tolist(), strict=True)
        for row, (audio, frames) in enumerate(rows):
            labels = batch.targets[row, : batch.target_lengths[row]]
            expected[row, :frames] = scores.shape[2] - 1
            if len(labels) > 0:
                first, last = speech_frames(audio, frames, self.frame_samples)
                expected[row, first:last] = deal(labels, last - first).to(scores.device)
        losses = F.nll_loss(
            scores.transpose(1, 2), expected, reduction="none", ignore_index=IGNORED
        )
        return self.weight * losses.sum(1)


def speech_frames(audio: Tensor, frames: int, frame_samples: int) -> tuple[int, int]:
    """The first loud frame of audio `[N]`, and the frame after the last loud one."""
    room = max(0, frames * frame_samples - len(audio))
    pieces = F.pad(audio, (0, room))[: frames * frame_samples].view(frames, frame_samples)
    level_db = (10 * pieces.square().mean(1).log10()).clamp(min=FLOOR_DB)
    middle = (level_db.quantile(0.1) + level_db.max()) / 2
    loud = (level_db >= middle).nonzero()[:, 0].tolist()
    return loud[0], loud[-1] + 1


def deal(labels: Tensor, frames: int) -> Tensor:
    """The label of each frame, `[frames]`: the labels `[U]` in order, spread evenly."""
    return labels[torch.arange(frames) * len(labels) // frames]
