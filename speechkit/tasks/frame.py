"""Voice activity detection: speech or not in each frame."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechkit.data import Batch, Channel, RawFormat, Source, Utterance
from speechkit.decode import Decoder
from speechkit.errors import ManifestError
from speechkit.events import Listener
from speechkit.infer import detect
from speechkit.models import Model, Output
from speechkit.models.net import Name
from speechkit.nn.states import in_numpy
from speechkit.predictions import Segment
from speechkit.report.page import curve
from speechkit.rules.probability import softmax
from speechkit.streaming.listeners import caption_for, listener_for
from speechkit.tasks.base import IGNORED, Targets, Task
from speechkit.tasks.metrics import auc, roc


class Detection(Task):
    """Speech or not in each frame.

    Scores are logits `[B, T, n]`, those of speech at index 1. An utterance needs `segments`.
    Metric: `auc`, the area under the ROC curve of all frames.
    """

    verb = "detect"
    loss = "frame_cross_entropy"
    block_s = 0.02
    detects = True

    def encode(self, utterance: Utterance) -> Tensor:
        """Starts and ends of speech in seconds, `[S, 2]` float64."""
        if utterance.segments is None:
            raise ManifestError(
                f"{utterance.place} has no segments; add the key 'segments' to its line"
            )
        return torch.tensor(utterance.segments, dtype=torch.float64).reshape(-1, 2)

    def targets(self, batch: Batch, output: Output) -> Targets:
        """1 for frames that start in speech, 0 for others, `[B, T]`; IGNORED in padding."""
        frames = torch.arange(output.scores.shape[1])
        # float32 would put a frame before a segment that starts with it
        at_s = frames.double() * self.frame_s
        rows = []
        for segments, length in zip(batch.targets, output.lengths.tolist(), strict=True):
            start, end = segments[:, :1], segments[:, 1:]
            speech = ((start <= at_s) & (at_s < end)).any(0).long()
            rows.append(speech.masked_fill(frames >= length, IGNORED))
        return torch.stack(rows).to(output.scores.device), output.lengths

    def predictions(self, output: Output) -> list[float]:
        """The probability of speech of each frame."""
        speech = softmax(in_numpy(output.scores))[:, :, 1]
        rows = zip(speech, output.lengths.tolist(), strict=True)
        return [p for row, n in rows for p in row[:n].tolist()]

    def references(self, batch: Batch, output: Output) -> list[int]:
        """1 or 0 for each frame."""
        targets = self.targets(batch, output)[0]
        return targets[targets != IGNORED].tolist()

    def metrics(self, references: Sequence[int], predictions: Sequence[float]) -> dict[str, float]:
        return {"auc": auc(references, predictions)}

    def error(self, metrics: dict[str, float]) -> float:
        return 1 - metrics["auc"]

    def predict(
        self,
        model: Model,
        audio: Source,
        sample_rate: int | None = None,
        *,
        channel: Channel = "mix",
        raw: RawFormat | None = None,
    ) -> list[Segment]:
        """As `sk.detect`."""
        return detect(model, audio, sample_rate, channel=channel, raw=raw)

    def listener(self, frame_s: float, decoder: Decoder | Name | None = None) -> Listener:
        """Starts and ends of speech by the config's `postprocess`."""
        return listener_for(self, frame_s, decoder)

    def caption(self, scores: NDArray[np.float32]) -> str:
        """The probability of speech."""
        return caption_for(self, scores)

    def sections(
        self, references: Sequence[int], predictions: Sequence[float]
    ) -> list[tuple[str, str]]:
        """The ROC curve."""
        points = roc(references, predictions).tolist()
        return [("ROC", curve(points, "false alarms, share of silent frames", "hits"))]
