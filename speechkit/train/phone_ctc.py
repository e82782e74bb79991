"""A second CTC loss on phones, computed from an inner layer of the encoder."""

import logging
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from speechkit.data import Batch, UtteranceDataset
from speechkit.errors import TrainingError
from speechkit.models import Model, Output
from speechkit.nn import Chunk, Serial, Taps
from speechkit.train.losses import frames_needed
from speechkit.train.method import Method

log = logging.getLogger(__name__)


class PhoneCTC(Method, nn.Module):
    """weight · CTC(phones | linear(output of the encoder's block `after`)), for each utterance.

    Phones are in the manifest's key `phones`. Utterances without them have loss 0. Those with
    phones but no text are used for this loss only, so that speech transcribed in another spelling
    can train the lower blocks. The linear layer is trained with the model but is not part of it.
    Source: Krishna et al., arXiv:1807.06234.
    """

    needs_no_text = True

    def __init__(self, after: int = 3, weight: float = 0.3) -> None:
        super().__init__()
        self.after = after
        self.weight = weight

    def start(self, model: Model, dataset: UtteranceDataset) -> None:
        """Reads the phones, and starts to record the output of the block."""
        if dataset.join is not None:
            raise TrainingError(
                "method phones reads the phones of single utterances; leave "
                f"{type(dataset.join).__name__}, which joins them, out of augment"
            )
        spoken = [(utterance.phones or "").split() for utterance in dataset.utterances]
        phones = sorted({phone for row in spoken for phone in row})
        if not phones:
            raise TrainingError(
                "method phones: no utterance has phones; add the key 'phones' to the manifest"
            )
        blocks = list(model.encoder) if isinstance(model.encoder, Serial) else []
        if not 0 <= self.after < len(blocks):
            raise TrainingError(
                f"method phones: after={self.after}; give one of the {len(blocks)} blocks that the "
                "encoder has in a row, from 0"
            )
        ids = {phone: index for index, phone in enumerate(phones)}
        self.targets = [torch.tensor([ids[p] for p in row], dtype=torch.int64) for row in spoken]
        below = Serial(model.frontend, model.stem, *blocks[: self.after + 1])
        self._check_lengths(dataset, below.stride / below.rate / model.sample_rate)
        self.head = nn.Linear(below.channels_out(1), len(phones) + 1)
        self.taps = Taps({"block": blocks[self.after]}, training_only=True)

    def _check_lengths(self, dataset: UtteranceDataset, frame_s: float) -> None:
        """Warns of utterances with too few frames for their phones; TrainingError if all are."""
        rows = zip(dataset.utterances, self.targets, strict=True)
        known = [
            (u, len(row), int(frames_needed(row[None], torch.tensor([len(row)]))))
            for u, row in rows
        ]
        short = [(u, n) for u, n, needed in known if needed > math.ceil(u.duration_s / frame_s)]
        if not short:
            return
        utterance, count = short[0]
        message = (
            f"method phones: {len(short)} of {len(known)} utterances are too short for their "
            f"phones, such as {utterance.place}: {count} phones in {utterance.duration_s:g} s of "
            f"frames of {1000 * frame_s:g} ms"
        )
        if len(short) == sum(n > 0 for _, n, _ in known):
            raise TrainingError(f"{message}; correct the phones, or give a block before a stride")
        log.warning("%s; they do not count", message)

    def extra_loss(self, batch: Batch, output: Output) -> Tensor:
        """The losses `[B]`."""
        block: Chunk = self.taps.take()[-1].output
        frames = block.x.transpose(1, 2).to(self.head.weight.dtype)
        with torch.autocast(frames.device.type, enabled=False):
            scores = self.head(frames).log_softmax(2)
        rows = [self.targets[index] for index in batch.indices]
        lengths = torch.tensor([len(row) for row in rows])
        losses = F.ctc_loss(
            scores.transpose(0, 1),
            pad_sequence(rows, batch_first=True).to(scores.device),
            block.lengths,
            lengths.to(scores.device),
            blank=scores.shape[2] - 1,
            reduction="none",
            zero_infinity=True,
        )
        return self.weight * losses.masked_fill((lengths == 0).to(losses.device), 0.0)
