"""Classification: one label for a clip."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechkit.component import did_you_mean
from speechkit.data import Channel, RawFormat, Source, Utterance
from speechkit.decode import Decoder
from speechkit.errors import ManifestError
from speechkit.events import Listener
from speechkit.infer import classify
from speechkit.models import Model, Output
from speechkit.models.net import Name
from speechkit.predictions import Label
from speechkit.report.page import heat
from speechkit.rules.spotting import Spotting, clip_logits
from speechkit.streaming.listeners import SEGMENT_S, caption_for, listener_for
from speechkit.tasks.base import Task
from speechkit.tasks.metrics import accuracy, confusion


class Classification(Task):
    """One label for a clip.

    Scores are logits `[B, n]` of the labels. An utterance needs a `label`. Metric: `accuracy`. In a
    stream it spots labels in a sliding window; a model whose config has `postprocess` detects
    speech, its label 1.
    """

    verb = "classify"
    loss = "cross_entropy"

    def encode(self, utterance: Utterance) -> Tensor:
        """The label's index, a scalar."""
        if utterance.label not in self.labels:
            hint = did_you_mean(str(utterance.label), self.labels)
            raise ManifestError(f"{utterance.place}: no label {utterance.label!r}. {hint}")
        return torch.tensor(self.labels.index(utterance.label))

    def output(self, model: Model, audio: Tensor, lengths: Tensor) -> Output:
        """The logits of each clip, as in `classify`."""
        rule = self.config.rule(Spotting)
        if not rule.clip_skips:
            return super().output(model, audio, lengths)
        scores, frames = model.sliding(audio, self.window_s, lengths)
        rows = [
            x[:count].numpy(force=True) for x, count in zip(scores, frames.tolist(), strict=True)
        ]
        if not frames.all():
            # a clip shorter than a frame has no window
            whole = super().output(model, audio, lengths).scores.numpy(force=True)
            rows = [row if len(row) else whole[index, None] for index, row in enumerate(rows)]
        found = [clip_logits(rule, self.labels, row, self.frame_s) for row in rows]
        return Output(torch.from_numpy(np.stack(found)).to(scores), torch.ones_like(frames))

    def predictions(self, output: Output) -> list[int]:
        """The index of the best label."""
        return output.scores.argmax(1).tolist()

    def metrics(self, references: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
        return {"accuracy": accuracy(references, predictions)}

    def error(self, metrics: dict[str, float]) -> float:
        return 1 - metrics["accuracy"]

    def predict(
        self,
        model: Model,
        audio: Source,
        sample_rate: int | None = None,
        *,
        channel: Channel = "mix",
        raw: RawFormat | None = None,
    ) -> Label:
        """As `sk.classify`."""
        return classify(model, audio, sample_rate, channel=channel, raw=raw)

    @property
    def detects(self) -> bool:
        return hasattr(self.config, "postprocess")

    @property
    def window_s(self) -> float:
        return SEGMENT_S if self.detects else self.config.rule(Spotting).window_s

    def listener(self, frame_s: float, decoder: Decoder | Name | None = None) -> Listener:
        """Keywords by the config's `spotting`, or starts and ends of speech by `postprocess`."""
        return listener_for(self, frame_s, decoder)

    def caption(self, scores: NDArray[np.float32]) -> str:
        """The best label, or that of speech, and its probability."""
        return caption_for(self, scores)

    def sections(
        self, references: Sequence[int], predictions: Sequence[int]
    ) -> list[tuple[str, str]]:
        """The confusion matrix."""
        counts = confusion(references, predictions, len(self.labels)).tolist()
        return [("Labels (rows) and predictions (columns)", heat(self.labels, counts))]
